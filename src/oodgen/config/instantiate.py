"""From the part of a resolved config to the object it describes: checked, then built. Imports no Lightning."""

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

from oodgen.config import schema
from oodgen.errors import UserError
from oodgen.models.ensemble import Ensemble

__all__ = ["build", "build_model"]


def build(config: Any, where: str) -> Any:
    """Build a part of a config, and all inside it.

    Arguments:
        config: The part.
        where: Its place in the config, as "method" or "probes.bounds", from which follows what it may be.

    Raises:
        UserError: it may not stand there, or an argument does not fit.
    """
    schema.check_part(config, where)
    return _built(config, where, schema.expected(where))


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """The model of a run without its method, and so without Lightning: the one that `build(config["method"]).model` is.

    Arguments:
        config: The run's resolved config.

    Raises:
        UserError: as `build`, or the method trains no model.
    """
    method = config["method"]
    member = method.get("member")  # of an ensemble: M models, each as the member's method has it
    if "model" not in (member or method):
        raise UserError("config method: there is no model in it")
    if member is None:
        return build(method["model"], "model")
    return Ensemble([build(member["model"], "model") for _ in range(method["size"])])


def _built(config: Any, place: str, hint: Any, **further: Any) -> Any:
    """What a checked config describes; `further` arguments stand above its own."""
    if isinstance(config, list):
        return [_built(value, f"{place}[{i}]", schema.inside(hint, list)) for i, value in enumerate(config)]
    if not isinstance(config, dict):
        return config
    if "_target_" not in config:
        return {key: _built(value, f"{place}.{key}", schema.inside(hint, dict)) for key, value in config.items()}
    if config.get("_fresh_"):
        # a function that builds it, and all inside it, at each call: what lies inside a `_partial_` is built once, so
        # members of an ensemble would share a prior
        own = {key: value for key, value in config.items() if key != "_fresh_"}
        return partial(_built, own, place, schema.returned(hint))
    thing = schema.admitted(config["_target_"], hint, config)
    known = schema.arguments(thing) or {}
    given = {key: value for key, value in config.items() if key not in ("_target_", "_partial_", "_fresh_")} | further
    arguments = {
        key: _built(value, f"{place}.{key}", known[key].hint if key in known else schema.UNSAID)
        for key, value in given.items()
    }
    try:
        make = _true(schema.defined(thing))
        made = partial(make, **arguments) if config.get("_partial_") else make(**arguments)
    except UserError:
        raise
    except Exception as error:
        line = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"config {place}: {line}") from error
    if not any(_is(made, kind) for kind in schema.parts(hint)):
        raise UserError(f"config {place}: {config['_target_']} made a {type(made).__name__}, which may not stand there")
    return made


def _is(made: Any, kind: Any) -> bool:
    """Whether what was built is of the kind that its place wants."""
    if not isinstance(kind, type):
        return callable(made)
    return isinstance(made, _true((kind.__module__, kind.__name__)))


def _true(name: tuple[str, str]) -> Any:
    return getattr(import_module(name[0]), name[1])
