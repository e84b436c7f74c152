"""Instantiation of parts of a resolved config, after checking them. Imports no Lightning."""

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

from oodgen.config import kinds, schema, targets
from oodgen.config.signatures import UNKNOWN
from oodgen.errors import UserError
from oodgen.models.ensemble import Ensemble

__all__ = ["build", "build_model"]


def build(config: Any, where: str) -> Any:
    """Instantiate a part of a config recursively.

    Arguments:
        config: The part.
        where: Its key, as "method" or "probes.bounds", which determines its type.

    Raises:
        UserError: a target is not permitted, or an argument is invalid.
    """
    schema.check_part(config, where)
    return _build(config, where, schema.expected_type(where))


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """The model of a run, equal to `build(config["method"]).model`, without the method and thus without Lightning.

    Arguments:
        config: The run's resolved config.

    Raises:
        UserError: see `build`; or the method has no model.
    """
    method = config["method"]
    member = method.get("member")  # for an ensemble: the method of each of its M members
    if "model" not in (member or method):
        raise UserError("config method: it has no model")
    if member is None:
        return build(method["model"], "model")
    return Ensemble([build(member["model"], "model") for _ in range(method["size"])])


def _build(config: Any, place: str, hint: Any, **further: Any) -> Any:
    """Instantiate a checked config; `further` arguments override its own."""
    if isinstance(config, list):
        return [_build(value, f"{place}[{i}]", kinds.element_type(hint, list)) for i, value in enumerate(config)]
    if not isinstance(config, dict):
        return config
    if "_target_" not in config:
        return {key: _build(value, f"{place}.{key}", kinds.element_type(hint, dict)) for key, value in config.items()}
    if config.get("_fresh_"):
        # a function that instantiates it, and all inside it, at each call; the arguments of a `_partial_` are built
        # once, so that members of an ensemble would share a prior
        unmarked = {key: value for key, value in config.items() if key != "_fresh_"}
        return partial(_build, unmarked, place, kinds.return_type(hint))
    if (thing := targets.resolve_target(config, hint)) is None:
        raise UserError(targets.refusal(place, config, hint, ""))
    known = targets.arguments(thing) or {}
    given = {key: value for key, value in config.items() if key not in ("_target_", "_partial_", "_fresh_")} | further
    arguments = {
        key: _build(value, f"{place}.{key}", known[key].hint if key in known else UNKNOWN)
        for key, value in given.items()
    }
    try:
        make = _import_definition(targets.definition(thing))
        made = partial(make, **arguments) if config.get("_partial_") else make(**arguments)
    except UserError:
        raise
    except Exception as error:
        line = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"config {place}: {line}") from error
    if not any(_is_instance(made, kind) for kind in kinds.part_types(hint)):
        raise UserError(f"config {place}: {config['_target_']} made a {type(made).__name__}, which is not allowed here")
    return made


def _is_instance(made: Any, kind: Any) -> bool:
    """Whether a built object has the type of its place."""
    if not isinstance(kind, type):
        return callable(made)
    return isinstance(made, _import_definition((kind.__module__, kind.__name__)))


def _import_definition(name: tuple[str, str]) -> Any:
    return getattr(import_module(name[0]), name[1])
