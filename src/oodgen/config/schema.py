"""Whether the values of a config are of the types that the things built from it take."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from oodgen.errors import UserError

__all__ = ["check_values"]

SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def check_values(config: Any, where: str = "") -> None:
    """Compare the arguments of every `_target_` in a config with their annotations.

    A default is always right, and what is annotated by anything but a scalar, a container or one of our classes passes:
    whoever gets it must say what is wrong with it.

    Raises:
        UserError: a value is of another type; names it by its place in the config.
    """
    if isinstance(config, list):
        for i, value in enumerate(config):
            check_values(value, f"{where}[{i}]")
    if not isinstance(config, dict):
        return
    known = _arguments(config["_target_"]) if "_target_" in config else {}
    for key, value in config.items():
        place = f"{where}.{key}" if where else str(key)
        hint, default = known.get(key, (Any, None))
        wrong = None if value is default or value == default else _complaint(place, value, hint)
        if wrong is not None:
            raise UserError(wrong)
        check_values(value, place)


def _arguments(target: str) -> dict[str, tuple[Any, Any]]:
    """Annotation and default of each argument."""
    thing = get_object(target)
    try:
        hints = typing.get_type_hints(thing.__init__ if isinstance(thing, type) else thing)  # type: ignore[misc]
        parameters = inspect.signature(thing).parameters
    except (TypeError, ValueError, NameError, AttributeError):
        return {}  # not one of ours: annotated with what is not there at run time
    return {name: (hints.get(name, Any), parameter.default) for name, parameter in parameters.items()}


def _complaint(place: str, value: Any, hint: Any) -> str | None:
    """What is wrong with a value; None if it may be of the annotated type."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    found = [_of_one(place, value, option) for option in options]
    if None in found:
        return None
    deeper = [wrong for wrong in found if wrong]
    if deeper:
        return deeper[0]
    parts = [option.__name__.lower() for option in options if _ours(option)]
    mend = f"; choose it as {parts[0]}@{place}={value}" if parts and isinstance(value, str) else ""
    if str in options and type(value) in (int, float):
        mend = f"; Hydra reads it as a number, so write it in quotes, '{value}'"
    return f"{place}={_said(value)} is not {' or '.join(map(_words, options))}{mend}"


def _of_one(place: str, value: Any, hint: Any) -> str | None:
    """None if it fits, "" if the value is none of these, or what is wrong with a part of it."""
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in SCALARS:
        fits = isinstance(value, (int, float) if origin is float else origin)
        return None if fits and (origin is bool or not isinstance(value, bool)) else ""
    if origin is typing.Literal:
        return None if type(value) in map(type, inner) else ""  # which of them it may be, whoever gets it must say
    if origin in (Sequence, list, tuple):
        if not isinstance(value, list):
            return ""
        kinds = chain(inner[:1] if ... in inner else inner, repeat(inner[0] if inner else Any))
        parts = (
            _complaint(f"{place}[{i}]", part, kind) for i, (part, kind) in enumerate(zip(value, kinds, strict=False))
        )
        return next(filter(None, parts), None)
    if origin in (Mapping, dict):
        if not isinstance(value, dict):
            return ""
        kind = inner[1] if inner else Any
        missing = next((key for key, part in value.items() if part is None and _complaint("", None, kind)), None)
        if missing is not None:
            return f"{place}.{missing}=null names nothing; leave it out with ~{place}.{missing}"
        parts = (_complaint(f"{place}.{key}", part, kind) for key, part in value.items())
        return next(filter(None, parts), None)
    # no bare value stands for one of these
    if origin is Callable or _ours(origin, "torch"):
        return None if isinstance(value, dict) and "_target_" in value else ""
    return "" if origin is Path and not isinstance(value, str) else None


def _ours(hint: Any, *others: str) -> bool:
    return isinstance(hint, type) and hint.__module__.partition(".")[0] in ("oodgen", *others)


def _words(hint: Any) -> str:
    origin = typing.get_origin(hint) or hint
    if origin in SCALARS:
        return SCALARS[origin]
    if origin is typing.Literal:
        return " or ".join(map(_said, typing.get_args(hint)))
    if origin in (Sequence, list, tuple):
        return "a list"
    if origin in (Mapping, dict):
        return "a group of options"
    return "a path" if origin is Path else f"a {getattr(origin, '__name__', origin)}"


def _said(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
