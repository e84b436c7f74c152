"""Assembly of an ensemble from finished trainings of single models."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from oodgen.errors import UserError
from oodgen.noise import member_seed
from oodgen.runs import record
from oodgen.runs.documents import load_yaml
from oodgen.training.checkpoints import find_checkpoint, load_weights, save_weights

__all__ = ["assemble", "check_unchanged", "member_config"]

# Data options that must be equal for all members, since otherwise one may train on examples that others calibrate on.
DATA = ("inlier", "auxiliary", "negative", "validation", "calibration", "grey", "size", "scale")


def member_config(config: Mapping[str, Any], member: int) -> dict[str, Any]:
    """The config of the separate training of a member: that of the single model with its seed, without evaluation.

    Arguments:
        config: The ensemble's resolved config.
        member: Number of the member, counted from 1.
    """
    seed = member_seed(config["seed"], member)
    method = {key: value for key, value in config["method"]["member"].items() if key != "_fresh_"} | {"seed": seed}
    data = {key: value for key, value in config["data"].items() if key not in ("members", "mutation")} | {"seed": seed}
    if rate := _mutation_rates(config)[member - 1]:
        data["mutation"] = rate
    none: dict[str, Any] = {"probes": {}, "scores": {}, "controls": {}, "means": {}, "oracle": {}, "logger": {}}
    return {**config, **none, "method": method, "data": data, "seed": seed}


def assemble(
    model: nn.Module, config: Mapping[str, Any], inputs: Sequence[str], folder: Path, data: str
) -> dict[str, Any]:
    """Load all members and write the ensemble's checkpoints, one for each name that all trainings have.

    Arguments:
        model: The ensemble.
        config: The resolved config.
        inputs: Names of the trainings, folders beside `folder`.
        folder: The ensemble's training directory.
        data: Digest of the training data.

    Returns:
        The entries of a training's record, with the date of each input.

    Raises:
        UserError: a training is missing, unfinished or diverged, or has another architecture or other data.
    """
    start, runs = time.perf_counter(), [folder.parent / name for name in inputs]
    dates = {
        run.name: _training_date(run, config, data, rate)
        for run, rate in zip(runs, _mutation_rates(config), strict=True)
    }
    names = set.intersection(*({path.stem for path in (run / "checkpoints").glob("*.ckpt")} for run in runs))
    for name in sorted(names | {config["checkpoint"]}):
        for run, member in zip(runs, model.members, strict=True):  # type: ignore[arg-type]
            load_weights(member, find_checkpoint(run, name))
        weights = {f"model.{key}": value for key, value in model.state_dict().items()}
        save_weights(folder / "checkpoints" / f"{name}.ckpt", {"state_dict": weights, "epoch": 0, "global_step": 0})
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "steps": 0, "epochs": 0.0, "how": "assembled", "members": len(runs), "inputs": dates}


def check_unchanged(cost: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError if an input of a finished ensemble was trained again since its assembly."""
    for name, date in cost.get("inputs", {}).items():
        made = folder.parent / name / "provenance.json"
        if made.is_file() and record.read_json(made).get("date") != date:
            raise UserError(
                f"{made.parent} was trained again after {folder} was assembled; retrain=true assembles it again"
            )


def _training_date(run: Path, config: Mapping[str, Any], data: str, mutation: float | None) -> str:
    """The date of a training, after checking that it can be a member."""
    if not run.is_dir():
        raise UserError(f"method.inputs: there is no training {run}; name a folder of {run.parent}")
    state = record.read_state(run)
    if state["state"] != "done":
        why = f": {state['why']}" if state["why"] else ""
        raise UserError(
            f"method.inputs: {run} is not finished ({state['state']}{why}); remove it, or repeat its command"
        )
    try:
        other = load_yaml(run / "config.yaml")
        theirs = _compared_options(other, other["data"].get("mutation"))
    except (UserError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"method.inputs: cannot read {run / 'config.yaml'}; train that member again") from error
    ours = _compared_options(config, mutation)
    if differs := _first_difference(theirs, ours):
        place, one, another = differs
        raise UserError(
            f"method.inputs: {run} has {place}={one}, this ensemble {another}; members must have equal options"
        )
    made = record.read_json(run / "provenance.json")
    if made.get("data") != data:
        raise UserError(f"method.inputs: {run} was trained on other data ({made.get('data')}, now {data}); remove it")
    return str(made.get("date"))


def _mutation_rates(config: Mapping[str, Any]) -> list[float | None]:
    """`data.mutation` of each member."""
    rates = config["data"].get("mutation")
    return rates if isinstance(rates, list) else [rates] * config["method"]["size"]


def _compared_options(config: Mapping[str, Any], mutation: float | None) -> dict[str, Any]:
    """The options that members must share with the ensemble."""
    data = {name: config["data"].get(name) for name in DATA}
    return {"model": config["model"], "data": data | {"mutation": mutation or 0}}


def _first_difference(one: Any, another: Any, place: str = "") -> tuple[str, Any, Any] | None:
    """The first key at which two configs differ, and both values."""
    if isinstance(one, Mapping) and isinstance(another, Mapping):
        for key in dict.fromkeys((*one, *another)):
            there = f"{place}.{key}" if place else str(key)
            if found := _first_difference(one.get(key), another.get(key), there):
                return found
        return None
    return None if one == another else (place, one, another)
