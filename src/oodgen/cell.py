"""One cell of an experiment grid: train or resume, ask, score, write down."""

import difflib
import inspect
import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError

from oodgen import board, evaluate, page, record
from oodgen.calibration import calibrate
from oodgen.checkpoints import find, load_weights
from oodgen.data.module import OODDataModule, TestSet
from oodgen.device import Device, one_gpu
from oodgen.errors import Diverged, UserError
from oodgen.files import whole, write_text
from oodgen.train import fit

__all__ = ["Parts", "assemble", "run"]

log = logging.getLogger(__name__)

# What a config may name: the rooms whose things are built from configs, and no function that acts on files.
ROOMS = tuple(f"oodgen.{room}." for room in ("models", "methods", "probes", "scores", "data"))
ALLOWED = (*ROOMS, "torch.nn.", "torch.optim.", "pytorch_lightning.callbacks.", "pytorch_lightning.loggers.")
# fmt: off
KEYS = (
    "name", "paper", "paper_method", "seed", "smoke", "retrain", "runs", "checkpoint", "eval_seed", "snapshots",
    "notes", "data", "model", "method", "probes", "scores", "controls", "oracle", "trainer", "callbacks", "logger",
    "device", "inputs",
)
# fmt: on


@dataclass(frozen=True)
class Parts:
    """What a resolved config describes, ready to train and be asked."""

    config: dict[str, Any]
    data: OODDataModule
    method: Any  # a LightningModule with a model
    probes: dict[str, Any]
    scores: dict[str, Any]
    device: Device


def assemble(config: dict[str, Any]) -> Parts:
    """Check a resolved config and build what it describes.

    Raises:
        UserError: an unknown key, an argument that does not fit, a `_target_` outside the allowed packages, a probe
            that asks what the model cannot answer, or a model of another shape than the data.
    """
    unknown = sorted(set(config) - set(KEYS))
    if unknown:
        raise UserError(f"unknown option {unknown[0]!r}; there are: {', '.join(KEYS)}")
    if config["smoke"]:
        config = _smoke(config)
    for missing in sorted(OmegaConf.missing_keys(OmegaConf.create(config))):
        raise UserError(f"{missing} is not set; give it as {missing}=VALUE")
    _check_targets(config)
    _known(inspect.signature(pl.Trainer).parameters, "trainer", config["trainer"])
    device = Device(**_known(Device.__dataclass_fields__, "device", config["device"])).resolved()
    torch.set_num_threads(device.threads or 1)
    config["device"]["precision"] = device.precision
    data = _build(config["data"], "data")
    pl.seed_everything(config["seed"], verbose=False)
    method = _build(config["method"], "method")
    probes = {name: _build(probe, f"probes.{name}") for name, probe in config["probes"].items()}
    for name, probe in probes.items():
        if not isinstance(method.model, probe.needs):
            raise UserError(
                f"probe {name!r} asks what a {probe.needs.__name__} answers, but the model is a "
                f"{type(method.model).__name__}; choose another model or leave the probe out with ~probes.{name}"
            )
    if tuple(method.model.shape) != tuple(data.shape):
        raise UserError(_misfit(tuple(method.model.shape), data, "shape" in config["data"]["inlier"]))
    scores = {
        name: _build(score, f"scores.{name}") for name, score in {**config["scores"], **config["controls"]}.items()
    }
    return Parts(config, data, method, probes, scores, device)


def run(config: DictConfig, folder: Path) -> None:
    """Train (or find trained), score and report one cell.

    Arguments:
        config: The composed config.
        folder: The evaluation's directory.

    Raises:
        UserError: anything the user can mend; the state of both directories says so too.
    """
    with record.locked(folder, wait=False), one_gpu(), record.running(folder):
        parts = assemble(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
        write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(parts.config)))
        try:
            _run(parts, folder)
        except SafetensorError as error:  # how its library says that the disk is full
            raise UserError(f"cannot write evidence: {error}; free some space and repeat the command") from error


def _run(parts: Parts, folder: Path) -> None:
    config, data, method, device = parts.config, parts.data, parts.method, parts.device
    fingerprint = record.fingerprint(config)
    root = Path(config["runs"]) / "smoke" if config["smoke"] else Path(config["runs"])
    train_dir = root / "train" / fingerprint
    sets = data.test_sets()  # first of all: a set that is missing should not cost a training
    data.setup()
    for name, why in data.skipped.items():
        log.warning("skipped %s: %s", name, why)
    loggers = [_build(logger, f"logger.{name}") for name, logger in config["logger"].items()]
    with board.session(loggers, config) as view:
        with record.locked(train_dir, wait=True):
            cost = _train(parts, train_dir, loggers)
        load_weights(method.model, find(train_dir, config["checkpoint"]))
        start = time.perf_counter()
        evidence_seed = config["eval_seed"]
        preprocessing = f"grey={data.grey} size={data.size}"
        model = method.model.to(device.torch).eval()
        device.place(model)
        witness = evaluate.Witness(
            model, config["checkpoint"], train_dir / "evidence", device, evidence_seed, preprocessing
        )
        scores = evaluate.fit_scores(parts.scores, evaluate.collect(witness, parts.probes, data.held["validation"]))
        calibrate(witness, parts.probes, data, folder)
        values: dict[str, dict[str, np.ndarray]] = {}
        for name, test in sets.items():
            values[name] = evaluate.score(scores, evaluate.collect(witness, parts.probes, test))
            log.info("scored %s (%d examples)", name, len(test.x))
        who = (config["name"], fingerprint, config["seed"])
        rows = evaluate.rows(who, values, int(np.prod(data.shape)), config["oracle"])
        evaluate.write_scores(folder / "scores", values)
        evaluate.write_rows(folder / "results.csv", rows)
        with whole(folder / "reconstructions.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **evaluate.reconstructions(witness, sets))
        seconds = {"train": cost["seconds"], "evaluate": round(time.perf_counter() - start, 1)}
        _write_record(parts, folder, train_dir, sets, cost | {"seconds": seconds})
        page.write(folder)
        if view is not None:
            board.publish(view, folder)


def _train(parts: Parts, folder: Path, loggers: list[Any]) -> dict[str, Any]:
    """Leave a finished training in `folder`: find it done, resume it or start it; returns its cost."""
    config = parts.config
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
    now = record.provenance() | {"data": parts.data.sha256}
    then = record.read_json(made) if made.is_file() else None
    for what in ("commit", "data"):
        if then is not None and then.get(what) != now[what]:
            log.warning(
                "%s was trained with another %s (%s, now %s); retrain=true starts over",
                *(folder, what, then.get(what), now[what]),
            )
    if state["state"] == "done" and then is not None and "cost" in then:
        log.info("found trained in %s", folder)
        return then["cost"]
    with record.running(folder):
        write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
        if then is None:
            write_text(made, json.dumps(now, indent=1))
        callbacks = [_build(callback, f"callbacks.{name}") for name, callback in config["callbacks"].items()]
        options = (config["trainer"], callbacks, loggers, config["snapshots"])
        try:
            cost = fit(parts.method, parts.data, folder, parts.device, *options)
        except Diverged as error:
            good = f"the last good checkpoint is {last}" if last.is_file() else "there was no checkpoint yet"
            raise Diverged(
                f"{error}; {good}. A smaller learning rate or trainer.gradient_clip_val=1 may help"
            ) from error
        now |= {"cost": cost, "device": asdict(parts.device), "peak_memory_mb": record.provenance()["peak_memory_mb"]}
        write_text(made, json.dumps(now, indent=1))
    return cost


def _write_record(
    parts: Parts, folder: Path, train_dir: Path, sets: Mapping[str, TestSet], cost: Mapping[str, Any]
) -> None:
    config, inlier = parts.config, parts.data.inlier.name
    made = record.read_json(train_dir / "provenance.json")
    notes = [*config["notes"], *(f"{name} was skipped: {why}" for name, why in parts.data.skipped.items())]
    content = {
        "experiment": config["name"],
        "fingerprint": train_dir.name,
        "seed": config["seed"],
        "command": record.provenance()["command"],
        "train_dir": str(train_dir),
        "checkpoint": config["checkpoint"],
        "paper": config["paper"],
        "method": config["paper_method"] or type(parts.method.model).__name__,
        "notes": notes,
        "provenance": made | asdict(parts.device) | {"seconds": cost["seconds"]},
        "training": {name: value for name, value in cost.items() if name != "seconds"},
        "datasets": {
            name: {
                "role": "inlier" if name == inlier else "out",
                "n": len(test.x),
                "origin": test.origin,
                "sha256": test.sha256,
            }
            for name, test in sets.items()
        },
        "model": {"parameters": sum(p.numel() for p in parts.method.model.parameters())},
    }
    write_text(folder / "record.json", json.dumps(content, indent=1))


def _misfit(shape: tuple[int, ...], data: OODDataModule, shaped: bool) -> str:
    """What to say where model and data differ in shape; `shaped`: the inlier set takes a shape of its own."""
    mend = f"data.inlier.shape={list(shape)}" if shaped else "data.grey=true and data.size=[height,width]"
    return (
        f"the model is for examples of shape {list(shape)}, {data.inlier.name} has {list(data.shape)}; "
        f"choose another model, or model.shape={list(data.shape)}, or {mend}"
    )


def _smoke(config: dict[str, Any]) -> dict[str, Any]:
    """The same experiment on a few random images: every part runs, nothing is learnt."""
    trainer = {
        **config["trainer"],
        "max_steps": 2,
        "max_epochs": 1,
        "check_val_every_n_epoch": 1,
        "limit_val_batches": 1,
    }
    probes = {
        name: {key: min(2, value) if key.startswith("samples") else value for key, value in probe.items()}
        for name, probe in config["probes"].items()
    }
    data = {**config["data"], "smoke": True, "batch_size": 4}
    return {**config, "trainer": trainer, "probes": probes, "data": data, "checkpoint": "last"}


def _build(config: Any, where: str) -> Any:
    """Instantiate a part; an argument that does not fit is the user's to mend."""
    try:
        return instantiate(config, _convert_="all")
    except InstantiationException as error:
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        place = str(error).rsplit("full_key: ", 1)[-1].strip() if "full_key: " in str(error) else ""
        line = str(cause).splitlines()[0]
        raise UserError(f"config {'.'.join(filter(None, (where, place)))}: {line}") from error


def _known(names: Iterable[str], where: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in options:
        if key not in (known := list(names)):
            near = difflib.get_close_matches(key, known) or known
            raise UserError(f"unknown option {where}.{key}; there is: {', '.join(near)}")
    return options


def _check_targets(config: Any, where: str = "") -> None:
    """Every `_target_` must be a thing of an allowed package, also by the module that really defines it."""
    if isinstance(config, list):
        for i, value in enumerate(config):
            _check_targets(value, f"{where}[{i}]")
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        if key == "_target_":
            _check_target(str(value), where)
        else:
            _check_targets(value, f"{where}.{key}" if where else str(key))


def _check_target(target: str, where: str) -> None:
    refusal = f"{where}._target_={target} is outside the allowed packages ({', '.join(p.rstrip('.') for p in ALLOWED)})"
    if not target.startswith(ALLOWED):
        raise UserError(refusal)
    try:
        defined = get_object(target)
    except Exception as error:
        raise UserError(f"{where}._target_={target} does not exist: {str(error).splitlines()[0]}") from error
    if not f"{getattr(defined, '__module__', '')}.".startswith(ALLOWED):
        raise UserError(refusal)
