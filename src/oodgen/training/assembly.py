"""An ensemble out of finished trainings: each member's weights are those of a run, and nothing else is trained."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from oodgen.errors import UserError
from oodgen.noise import member_seed
from oodgen.runs import record
from oodgen.training.checkpoints import find, load_weights, save_weights

__all__ = ["alone", "assemble", "check_unchanged"]

# What must be alike beside the model, or a member would have trained on what others calibrate on.
DATA = ("inlier", "auxiliary", "negative", "validation", "calibration", "grey", "size", "scale")


def alone(config: Mapping[str, Any], member: int) -> dict[str, Any]:
    """The config of a member's own training: that of the single model of its seed, with nothing to ask or to score.

    Arguments:
        config: The ensemble's resolved config.
        member: 1 the first.
    """
    seed = member_seed(config["seed"], member)
    method = {key: value for key, value in config["method"]["member"].items() if key != "_fresh_"} | {"seed": seed}
    data = {key: value for key, value in config["data"].items() if key not in ("members", "mutation")} | {"seed": seed}
    if rate := _rates(config)[member - 1]:
        data["mutation"] = rate
    nothing: dict[str, Any] = {"probes": {}, "scores": {}, "controls": {}, "means": {}, "oracle": {}, "logger": {}}
    return {**config, **nothing, "method": method, "data": data, "seed": seed}


def assemble(
    model: nn.Module, config: Mapping[str, Any], inputs: Sequence[str], folder: Path, data: str
) -> dict[str, Any]:
    """Load every member and write the ensemble's checkpoints, of each name that all of the trainings have.

    Arguments:
        model: The ensemble.
        config: The resolved config.
        inputs: Names of the trainings, folders beside `folder`.
        folder: The ensemble's own training directory.
        data: Digest of the training data.

    Returns:
        What a training would say of its cost, with the date of each input.

    Raises:
        UserError: a training is missing, not finished or diverged, or it trained another architecture or on other data;
            names it.
    """
    start, runs = time.perf_counter(), [folder.parent / name for name in inputs]
    dates = {run.name: _checked(run, config, data, rate) for run, rate in zip(runs, _rates(config), strict=True)}
    names = set.intersection(*({path.stem for path in (run / "checkpoints").glob("*.ckpt")} for run in runs))
    for name in sorted(names | {config["checkpoint"]}):
        for run, member in zip(runs, model.members, strict=True):  # type: ignore[arg-type]
            load_weights(member, find(run, name))
        weights = {f"model.{key}": value for key, value in model.state_dict().items()}
        save_weights(folder / "checkpoints" / f"{name}.ckpt", {"state_dict": weights, "epoch": 0, "global_step": 0})
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "steps": 0, "epochs": 0.0, "how": "assembled", "members": len(runs), "inputs": dates}


def check_unchanged(cost: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError if a training that a finished ensemble was assembled from has been trained again since."""
    for name, date in cost.get("inputs", {}).items():
        made = folder.parent / name / "provenance.json"
        if made.is_file() and record.read_json(made).get("date") != date:
            raise UserError(f"{made.parent} was trained again since {folder} was assembled; retrain=true does so anew")


def _checked(run: Path, config: Mapping[str, Any], data: str, mutation: float | None) -> str:
    """The date of a training that can be a member."""
    if not run.is_dir():
        raise UserError(f"method.inputs: there is no training {run}; name a folder of {run.parent}")
    state = record.read_state(run)
    if state["state"] != "done":
        why = f" ({state['why']})" if state["why"] else ""
        raise UserError(f"method.inputs: {run} is not finished but {state['state']}{why}; leave it out, or finish it")
    try:
        other = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        theirs = _kind(other, other["data"].get("mutation"))
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"method.inputs: cannot read {run / 'config.yaml'}; train that member again") from error
    ours = _kind(config, mutation)
    if differs := _difference(theirs, ours):
        place, one, another = differs
        raise UserError(f"method.inputs: {run} has {place}={one}, this ensemble {another}; members are of one kind")
    made = record.read_json(run / "provenance.json")
    if made.get("data") != data:
        raise UserError(
            f"method.inputs: {run} was trained on other data ({made.get('data')}, now {data}); leave it out"
        )
    return str(made.get("date"))


def _rates(config: Mapping[str, Any]) -> list[float | None]:
    """The mutation rate of each member."""
    rates = config["data"].get("mutation")
    return rates if isinstance(rates, list) else [rates] * config["method"]["size"]


def _kind(config: Mapping[str, Any], mutation: float | None) -> dict[str, Any]:
    """What must be as the ensemble has it of a member."""
    data = {name: config["data"].get(name) for name in DATA}
    return {"model": config["model"], "data": data | {"mutation": mutation or 0}}


def _difference(one: Any, another: Any, place: str = "") -> tuple[str, Any, Any] | None:
    """The first place at which two configs differ, and what stands there."""
    if isinstance(one, Mapping) and isinstance(another, Mapping):
        for key in dict.fromkeys((*one, *another)):
            there = f"{place}.{key}" if place else str(key)
            if found := _difference(one.get(key), another.get(key), there):
                return found
        return None
    return None if one == another else (place, one, another)
