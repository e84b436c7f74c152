"""One run of an experiment: train or resume, evaluate, write results, record and page."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError

from oodgen.config import messages, plugins
from oodgen.config.components import Components, build_components
from oodgen.config.instantiate import build
from oodgen.data.preprocess import TestSet
from oodgen.errors import Diverged, UserError
from oodgen.evaluation import attack, evaluate
from oodgen.evaluation.accuracy import accuracy_rows
from oodgen.evaluation.calibration import calibrate
from oodgen.evaluation.latent_usage import latent_usage
from oodgen.evaluation.rehearsal import rehearse
from oodgen.report import loggers, page
from oodgen.runs import objective, record, results
from oodgen.runs.files import atomic_path, write_text
from oodgen.training import assembly
from oodgen.training.checkpoints import find_checkpoint, load_weights
from oodgen.training.curves import CurvesLogger
from oodgen.training.device import exclusive_gpu
from oodgen.training.fit import fit

__all__ = ["run"]

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path, overrides: Sequence[str] = (), optimised: bool = False) -> None:
    """Train (or reuse a training), evaluate and report one run.

    Arguments:
        config: The composed config.
        folder: The evaluation's directory.
        overrides: Those of the command, by which reports distinguish runs of one experiment.
        optimised: Whether a sweeper uses the objective.

    Raises:
        UserError: anything the user can fix; it is also recorded in state.json of both directories.
    """
    with record.locked(folder, wait=False), exclusive_gpu(), record.recorded_state(folder):
        components = build_components(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
        write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(components.config)))
        try:
            _run(components, folder, overrides, optimised)
        except SafetensorError as error:  # raised if the disk is full
            raise UserError(f"cannot write evidence: {error}; free some space and repeat the command") from error
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"out of device memory while scoring ({messages.one_line(error)}); reduce the networks' batches, "
                "e.g. with +probes.bounds.budget=4096"
            ) from error


def _run(components: Components, folder: Path, overrides: Sequence[str], optimised: bool) -> None:
    config, data, method, device = components.config, components.data, components.method, components.device
    loggers.check_installed(config["logger"])
    views = [build(logger, f"logger.{name}") for name, logger in config["logger"].items()]
    fingerprint = record.fingerprint(config)
    root = Path(config["runs"]) / "smoke" if config["smoke"] else Path(config["runs"])
    train_dir = root / "train" / fingerprint
    sets = data.test_sets()  # first, so that a missing set is reported before the training
    attack.check_attackable(method.model, data.attacks)
    run_key = (config["name"], fingerprint, config["seed"])
    selected = objective.is_set(config["objective"])
    assembled = config["method"].get("inputs") or getattr(method, "apart", False)
    if optimised and not selected and (assembled or f"val/{method.monitor}" not in objective.STATED):
        raise UserError(objective.NO_BOUND)
    data.setup()
    if config["checkpoint"] not in ("last", "best", *(f"epoch{n}" for n in config["snapshots"])):
        find_checkpoint(train_dir, config["checkpoint"])  # raises before a training that would not write it
    if selected or (not config["smoke"] and (config["retrain"] or record.read_state(train_dir)["state"] != "done")):
        rehearse(components, [*sets, *data.attacks])
    for name, why in data.skipped.items():
        log.warning("skipped %s: %s", name, why)
    with loggers.session(views, config):
        with record.locked(train_dir, wait=True):
            cost = _train(components, train_dir, views)
        load_weights(method.model, find_checkpoint(train_dir, config["checkpoint"]))
        start = time.perf_counter()
        model = method.model.to(device.torch).eval()
        device.set_memory_format(model)
        kept = (train_dir / "evidence", root / "evidence")
        evaluated = evaluate.EvaluatedModel(model, config["checkpoint"], *kept, device, config["eval_seed"])
        probes = evaluate.fit_probes(evaluated, components.probes, data.training_examples)
        validation = evaluate.collect_evidence(evaluated, probes, data.held_out["validation"])
        scores = evaluate.fit_scores(components.scores, validation)
        calibrate(evaluated, probes, data, folder)
        sets |= attack.make_sets(evaluated, data.attacks, sets[data.inlier.name])
        values: dict[str, dict[str, np.ndarray]] = {}
        means: dict[str, dict[str, np.ndarray]] = {}
        for name, test in sets.items():
            evidence = evaluate.collect_evidence(evaluated, probes, test)
            values[name] = evaluate.compute_scores(scores, evidence)
            means[name] = evaluate.compute_scores(components.means, evidence)
            evaluate.check_finite(values[name] | means[name], name)
            if name == data.inlier.name:
                right = accuracy_rows(run_key, evidence, test)
                spent = evaluate.score_seconds(evaluated, probes, scores, test)
            log.info("scored %s (%d examples)", name, len(test.x))
        width = getattr(model, "bin", None)
        rows = evaluate.result_rows(run_key, values, int(np.prod(data.shape)), config["oracle"], means, width)
        rows += latent_usage(evaluated, run_key, sets)
        rows += right
        evaluate.write_scores(folder / "scores", values)
        results.write(folder / "results.csv", rows)
        with atomic_path(folder / "reconstructions.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **evaluate.reconstructions(evaluated, sets))  # type: ignore[arg-type]
        seconds = {"train": cost["seconds"], "evaluate": round(time.perf_counter() - start, 1)}
        for line in (warnings := evaluate.diverging_means(values)):
            log.warning(line)
        notices = {
            "score_seconds": {score: float(f"{s:.4g}") for score, s in spent.items()},
            "overrides": list(overrides),
            "warnings": [*cost.get("warnings", []), *warnings],
        }
        _write_record(components, folder, train_dir, sets, cost | {"seconds": seconds}, notices)
        page.write(folder)
        loggers.log_results(views, folder)


def _train(components: Components, folder: Path, views: Sequence[Any]) -> dict[str, Any]:
    """Reuse, resume or start the training in `folder`; return its cost (seconds, steps, epochs, ...)."""
    config = components.config
    made, last = folder / "provenance.json", folder / "checkpoints" / "last.ckpt"
    state = record.read_state(folder)
    if state["state"] == "diverged" and not config["retrain"]:
        raise Diverged(f"{state['why']} (found in {folder}; retrain=true starts over)")
    if config["retrain"] or not last.is_file():
        for path in [
            *(folder / "checkpoints").glob("*"),
            *(folder / "evidence").glob("*"),
            folder / "metrics.csv",
            made,
        ]:
            path.unlink(missing_ok=True)
    now = record.provenance() | {"data": components.data.sha256}
    now["versions"] |= plugins.versions(config)
    then = record.read_json(made) if made.is_file() else None
    if then is not None and then.get("data") != now["data"]:
        # with other data the train split is divided anew: weights may have been trained on the new calibration part
        raise UserError(
            f"{folder} was trained on other data ({then.get('data')}, now {now['data']}); "
            "restore the old data, or start over with retrain=true"
        )
    if then is not None and then.get("commit") != now["commit"]:
        log.warning(
            "%s was trained by commit %s, this is %s; retrain=true starts over", folder, then["commit"], now["commit"]
        )
    if state["state"] == "done" and then is not None and "cost" in then:
        assembly.check_unchanged(then["cost"], folder)
        log.info("found trained in %s", folder)
        CurvesLogger(folder / "metrics.csv", views).replay()
        return then["cost"]
    with record.recorded_state(folder):
        write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
        if then is None:
            write_text(made, json.dumps(now, indent=1))
        callbacks = [build(callback, f"callbacks.{name}") for name, callback in config["callbacks"].items()]
        options = (config["trainer"], callbacks, views, config["snapshots"])
        if inputs := config["method"].get("inputs"):
            cost = assembly.assemble(components.method.model, config, inputs, folder, components.data.sha256)
        elif getattr(components.method, "apart", False):
            costs = _members(config, folder)
            cost = assembly.assemble(components.method.model, config, list(costs), folder, components.data.sha256)
            one = next(iter(costs.values()))
            spent = sum(part["seconds"] for part in costs.values()) + cost["seconds"]
            cost |= {"how": "apart", "seconds": spent, "steps": one["steps"], "epochs": one["epochs"]}
        else:
            try:
                cost = fit(components.method, components.data, folder, components.device, *options)
            except Diverged as error:
                good = f"the last good checkpoint is {last}" if last.is_file() else "there was no checkpoint yet"
                raise Diverged(f"{error}; {good}. A smaller learning rate or clipped gradients may help") from error
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"out of device memory while training ({messages.one_line(error)}); reduce "
                    f"data.batch_size={config['data']['batch_size']}"
                ) from error
        now |= {
            "cost": cost,
            "device": asdict(components.device),
            "peak_memory_mb": record.provenance()["peak_memory_mb"],
        }
        write_text(made, json.dumps(now, indent=1))
    return cost


def _members(config: Mapping[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """Reuse or run the separate training of each member; return name -> cost."""
    costs = {}
    configs = {i: assembly.member_config(config, i) for i in range(1, config["method"]["size"] + 1)}
    names = {i: record.fingerprint(member) for i, member in configs.items()}
    lost = {i for i, name in names.items() if record.read_state(folder.parent / name)["state"] == "diverged"}
    for i, member in configs.items():
        name = names[i]
        # if members diverged, retrain applies to these only
        components = build_components(member | {"retrain": config["retrain"] and (i in lost or not lost)})
        components.data.setup()
        log.info("member %d of %d, seed %d: %s", i, config["method"]["size"], member["seed"], folder.parent / name)
        with record.locked(folder.parent / name, wait=True):
            try:
                costs[name] = _train(components, folder.parent / name, [])
            except Diverged as error:
                raise Diverged(f"member {i}: {error}") from error
    return costs


def _write_record(
    components: Components,
    folder: Path,
    train_dir: Path,
    sets: Mapping[str, TestSet],
    cost: Mapping[str, Any],
    notices: Mapping[str, Any],
) -> None:
    config, inlier = components.config, components.data.inlier.name
    made = record.read_json(train_dir / "provenance.json")
    streams = [("auxiliary", stream) for stream in components.data.streams]
    streams += [] if components.data.negatives is None else [("negative", components.data.negatives)]
    notes = [*config["notes"], *(f"{name} was skipped: {why}" for name, why in components.data.skipped.items())]
    notes += [
        f"{name} is not an unseen set: its training split was used for training, as {role} examples."
        for role, stream in streams
        for name, test in sets.items()
        if test.name == stream.name
    ]
    content = {
        "experiment": config["name"],
        "fingerprint": train_dir.name,
        "seed": config["seed"],
        "command": record.provenance()["command"],
        "train_dir": str(train_dir),
        "checkpoint": config["checkpoint"],
        "paper": config["paper"],
        "method": config["paper_method"] or type(components.method.model).__name__,
        "notes": notes,
        "plugins": plugins.versions(config),
        "provenance": made | asdict(components.device) | {"seconds": cost["seconds"]},
        "training": {name: value for name, value in cost.items() if name not in ("seconds", "warnings")},
        "datasets": {
            name: {
                "role": "inlier" if name == inlier else "out",
                "n": len(test.x),
                "origin": test.origin,
                "sha256": test.sha256,
            }
            for name, test in sets.items()
        },
        "trained_with": {
            stream.name: {"role": role, "n": len(stream.x), "origin": stream.origin, "sha256": stream.sha256}
            for role, stream in streams
        },
        "model": {"parameters": sum(p.numel() for p in components.method.model.parameters())},
        **notices,
    }
    write_text(folder / "record.json", json.dumps(content, indent=1))
