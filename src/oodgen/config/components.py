"""Building of all parts of a run from its resolved config: data, method with model, probes, scores, device."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from oodgen.config import schema
from oodgen.config.instantiate import build
from oodgen.data.module import OODDataModule
from oodgen.errors import UserError
from oodgen.models.ensemble import Ensemble
from oodgen.probes.members import Members
from oodgen.runs.labels import label, with_labels
from oodgen.training.device import Device

__all__ = ["Components", "build_components", "with_few_samples"]


@dataclass(frozen=True)
class Components:
    """The parts of a run."""

    config: dict[str, Any]
    data: OODDataModule
    method: Any  # a LightningModule with a model
    probes: dict[str, Any]
    scores: dict[str, Any]
    means: dict[str, Any]
    device: Device


def build_components(config: dict[str, Any]) -> Components:
    """Check a resolved config and build its parts.

    Raises:
        UserError: see `oodgen.config.schema.check`; or arguments are inconsistent, a probe needs another class of
            model, or model and data have different shapes.
    """
    schema.check(config)
    config = {**config, "name": str(config["name"])}  # name=1 is a number to Hydra
    if config["smoke"]:
        config = _smoke_config(config)
    device = Device(**config["device"]).resolved()
    torch.set_num_threads(device.threads or 1)
    config["device"]["precision"] = device.precision
    data = build(config["data"], "data")
    pl.seed_everything(config["seed"], verbose=False)
    method = build(config["method"], "method")
    method.make_optimizer([torch.nn.Parameter(torch.zeros(1))])  # raises for options that do not fit each other
    probes = {name: build(probe, f"probes.{name}") for name, probe in config["probes"].items()}
    for name, probe in probes.items():
        pairs = [(probe, method.model)]
        if isinstance(probe, Members) and isinstance(method.model, Ensemble):
            pairs.append((probe.probe, method.model.members[0]))
        for single, model in pairs:
            if not isinstance(model, single.needs):
                raise UserError(
                    f"probe {name!r} needs a {single.needs.__name__}, but the model is a "
                    f"{type(model).__name__}; choose another model, or remove the probe with ~probes.{name}"
                )
    if tuple(method.model.shape) != tuple(data.shape):
        raise UserError(_shape_error(tuple(method.model.shape), data, "shape" in config["data"]["inlier"]))
    scores = _scores(config, "scores", "controls")
    return Components(with_labels(config), data, method, probes, scores, _scores(config, "means"), device)


def _scores(config: Mapping[str, Any], *groups: str) -> dict[str, Any]:
    """Label -> score.

    Raises:
        UserError: two scores have the same label, or a score needs arguments other than the evidence.
    """
    found: dict[str, Any] = {}
    for group in groups:
        for name, part in config[group].items():
            score = build(part, f"{group}.{name}")
            try:
                inspect.signature(score).bind({})
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{group}.{name}: {error}; a score is called with evidence only, so set its other arguments"
                ) from error
            if label(name) in found:
                raise UserError(
                    f"{group}.{name} has the label {label(name)!r} of another score; remove one with ~{group}.{name}"
                )
            found[label(name)] = score
    return found


def _shape_error(shape: tuple[int, ...], data: OODDataModule, shaped: bool) -> str:
    """The error of different shapes of model and data; `shaped`: whether the inlier set has an option `shape`."""
    mend = f", or data.inlier.shape={list(shape)}" if shaped else ", or data.grey=true and data.size=[height,width]"
    if len(data.shape) != 3:
        mend = ""  # rows have as many columns as they have
    return (
        f"the model is for examples of shape {list(shape)}, {data.inlier.name} has {list(data.shape)}; "
        f"choose another model, or model.shape={list(data.shape)}{mend}"
    )


def _smoke_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a smoke run: the experiment with two steps on a few random images."""
    trainer = {
        **config["trainer"],
        "max_steps": 2,
        "max_epochs": 1,
        "check_val_every_n_epoch": 1,
        "limit_val_batches": 1,
    }
    data = {**config["data"], "smoke": True, "batch_size": 4}
    notes = ["Random images (smoke=true): this shows that the experiment runs, and nothing else.", *config["notes"]]
    changed = {"trainer": trainer, "probes": with_few_samples(config["probes"]), "data": data, "checkpoint": "last"}
    return {**config, **changed, "notes": notes}


def with_few_samples(config: Any) -> Any:
    """The probes' config with at most two samples and two steps."""
    if not isinstance(config, dict):
        return config
    return {
        key: min(2, value)
        if key.startswith(("samples", "steps")) and isinstance(value, int)
        else with_few_samples(value)
        for key, value in config.items()
    }
