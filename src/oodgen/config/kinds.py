"""Types of options: their alternatives, elements and descriptions."""

import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from oodgen.config import plugins, signatures
from oodgen.config.allowed import Parts
from oodgen.config.signatures import UNKNOWN

__all__ = ["SCALARS", "base", "describe", "element_type", "literals", "options", "packages", "part_types", "represent"]
__all__ += ["resolve_hint", "return_type"]

SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
PLAIN = ("builtins", "pathlib", "typing", "collections.abc")  # modules whose classes are not built from a config


def packages() -> frozenset[str]:
    """The packages whose sources are read."""
    return frozenset({"oodgen", *plugins.admitted()})


def resolve_hint(hint: Any) -> Any:
    """Resolve a type that is given by its dotted name, or `Parts`."""
    if isinstance(hint, Parts):
        return Mapping[str, resolve_hint(hint.kind)]  # type: ignore[misc]
    return signatures.resolve_name(hint, packages()) if isinstance(hint, str) else hint


def options(hint: Any) -> list[Any]:
    """The types of which one is enough."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [resolve_hint(option) for option in (typing.get_args(hint) if union else (hint,))]


def part_types(hint: Any) -> list[Any]:
    """The alternatives of a type that can be built by a `_target_`."""
    return [
        option
        for option in options(hint)
        if typing.get_origin(option) is Callable or (isinstance(option, type) and option.__module__ not in PLAIN)
    ]


def element_type(hint: Any, container: type) -> Any:
    """The type of the elements of a list or mapping of type `hint`."""
    for option in options(hint):
        origin, inner = typing.get_origin(option), typing.get_args(option)
        if origin in ((Mapping, dict) if container is dict else (Sequence, list, tuple, Iterable)) and inner:
            return inner[1] if container is dict else inner[0]
    return UNKNOWN


def return_type(hint: Any) -> Any:
    """The return type of a function of type `hint`, or `hint` itself."""
    return next((typing.get_args(one)[1] for one in options(hint) if typing.get_origin(one) is Callable), hint)


def base(hint: Any) -> Any:
    """The type without its annotations."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def literals(hint: Any) -> list[str]:
    """The strings among the alternatives of a type."""
    found = (typing.get_args(one) for one in options(hint) if typing.get_origin(one) is typing.Literal)
    return [text for some in found for text in some if isinstance(text, str)]


def describe(hint: Any) -> str:
    """A description of a type, as "a whole number or null"."""
    return " or ".join(dict.fromkeys(map(_describe_type, options(hint))))


def _describe_type(hint: Any) -> str:
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if isinstance(hint, Mapping) or origin in (Mapping, dict):
        return "a group of options"
    if origin is typing.Annotated:
        return inner[1] if inner[0] is str else _describe_type(inner[0])
    if origin in SCALARS:
        return SCALARS[origin]
    if origin is typing.Literal:
        return " or ".join(map(represent, dict.fromkeys(map(str, inner))))
    if origin in (Sequence, list, tuple, Iterable):
        return "a list"
    if origin is Callable:
        return f"a function that returns {_describe_type(inner[1])}"
    name = "path" if origin is Path else str(getattr(origin, "__name__", origin))
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def represent(value: Any) -> str:
    """A value as written in a config, shortened if long."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
