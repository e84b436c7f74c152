"""Checks of a resolved config: names, types and ranges of all options.

They use `oodgen.config.allowed` and the source of the constructors, before anything is imported, built, trained,
deleted or written.
"""

import difflib
import inspect
import operator
import re
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

from oodgen.config import signatures, targets
from oodgen.config.allowed import DECIDED, RUN, TRAINER
from oodgen.config.kinds import SCALARS, base, describe, literals, options, part_types, represent, resolve_hint
from oodgen.config.signatures import UNKNOWN, Argument
from oodgen.config.targets import FLAGS
from oodgen.errors import UserError
from oodgen.runs.files import check_name

__all__ = ["check", "check_part", "expected_type"]

COMPARISONS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "!=": operator.ne}
BOUNDS = {">=": "at least", ">": "larger than", "<=": "at most", "<": "below", "!=": "other than"}


def check(config: Mapping[str, Any], complete: bool = True) -> None:
    """Check a resolved config; `complete`: it must have all of `RUN`, as recorded ones of older versions have not.

    Raises:
        UserError: an option that is missing or that there is not, a value that an option does not take, or a `_target_`
            that may not stand where it does; one line that names it by its place.
    """
    known = {key: config[key] for key in RUN if key in config}  # in this order: what others take over comes first
    wrong = _missing_option(config) or _group_error("", known | dict(config), RUN)
    member = config["method"].get("member") if isinstance(config.get("method"), dict) else None
    seed = config.get("seed")
    if wrong is None and complete and (missing := [key for key in RUN if key not in config]):
        wrong = f"{missing[0]} is missing, which every run has; do not remove it, or choose another"
    if wrong is None and isinstance(member, dict) and (own := member.get("seed", seed)) != seed:
        wrong = f"method.member.seed={own} would have no effect, since members' seeds follow from seed={seed}"
    if wrong is not None:
        raise UserError(wrong)


def check_part(config: Any, where: str) -> None:
    """Check the part of a config at a key, as "method" or "probes.bounds".

    Raises:
        UserError: as `check`.
    """
    if (wrong := _missing_option(config, where) or _error(where, config, expected_type(where))) is not None:
        raise UserError(wrong)


def expected_type(where: str) -> Any:
    """The type of the part at a key of a config, as "method" or "probes.bounds"."""
    first, _, name = where.partition(".")
    hint = resolve_hint(RUN.get(first, UNKNOWN))
    return resolve_hint(typing.get_args(hint)[1]) if name and typing.get_origin(hint) is Mapping else hint


def _missing_option(config: Any, where: str = "") -> str | None:
    """The error of the first missing value (`???`), or None."""
    if config == "???":
        return f"{where} is not set; give it as {where}=VALUE"
    if not isinstance(config, (dict, list)):
        return None
    items = config.items() if isinstance(config, dict) else enumerate(config)
    return next(filter(None, (_missing_option(value, f"{where}.{key}".lstrip(".")) for key, value in items)), None)


def _error(place: str, value: Any, hint: Any, owner: str = "") -> str | None:
    """The error of a value that does not have the annotated type, or None."""
    hint = resolve_hint(hint)
    if hint is UNKNOWN or hint is Any:
        return _untyped_error(place, value)
    if isinstance(value, dict) and "_target_" in value:
        return _part_error(place, value, hint, owner)
    found = [_type_error(place, value, option) for option in options(hint)]
    if None in found:
        return None
    return (
        next(filter(None, found), None)
        or f"{place}={represent(value)} is not {describe(hint)}{_mend(place, value, hint)}"
    )


def _mend(place: str, value: Any, hint: Any) -> str:
    """The probable correction of a value of the wrong type."""
    if isinstance(value, str) and (near := difflib.get_close_matches(value, literals(hint), n=1)):
        return f"; did you mean {near[0]}?"
    if part_types(hint):
        group = targets.group(place) if isinstance(value, str) else ""
        return f"; choose it as {group}@{place}={value}" if group else targets.suggestion(place, hint)
    if type(value) in (int, float) and any(base(option) is str for option in options(hint)):
        return f"; Hydra reads it as a number, so write it in quotes, '{value}'"
    if isinstance(value, (int, str)) and any(typing.get_origin(option) is Sequence for option in options(hint)):
        return f"; write {place}=[{represent(value) if isinstance(value, bool) else value}]"
    return ""


def _type_error(place: str, value: Any, hint: Any) -> str | None:
    """None if a value has a type that is no union, "" if it is of another type, or the error of a part of it."""
    if isinstance(hint, Mapping):
        return _group_error(place, value, hint) if isinstance(value, dict) else ""
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Annotated:
        return _annotated_error(place, value, *inner)
    if origin in SCALARS:
        return _scalar_error(place, value, origin)
    if origin is typing.Literal:
        return None if any(type(value) is type(one) and value == one for one in inner) else ""
    if origin in (Sequence, list, tuple, Iterable):
        if not isinstance(value, list):
            return ""
        if origin is tuple and ... not in inner and len(value) != len(inner):
            return f"{place}={value} is not a list of {len(inner)}"
        kinds = inner if origin is tuple and ... not in inner else repeat(inner[0] if inner else Any)
        wrong = (_error(f"{place}[{i}]", one, kind) for i, (one, kind) in enumerate(zip(value, kinds, strict=False)))
        return next(filter(None, wrong), None)
    if origin in (Mapping, dict):
        return _mapping_error(place, value, inner[1] if inner else Any) if isinstance(value, dict) else ""
    if origin is Path:
        return None if isinstance(value, str) and value and "\0" not in value else ""
    return ""  # no bare value stands for a thing


def _scalar_error(place: str, value: Any, kind: type) -> str | None:
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        return ""
    if kind is float and not abs(value) <= sys.float_info.max:
        return f"{place}={represent(value)} must be a finite number"
    if kind is int and abs(value) >= 2**63:
        return f"{place}={represent(value)} is beyond what a whole number may be here"
    return None


def _annotated_error(place: str, value: Any, kind: Any, *further: Any) -> str | None:
    """As `_type_error`, for a type with bounds, a pattern, or a class whose arguments are the keys of a group."""
    if typing.get_origin(kind) is Mapping:
        return _fields_error(place, value, resolve_hint(further[0])) if isinstance(value, dict) else ""
    if kind is str:
        return None if isinstance(value, str) and re.fullmatch(further[1], value, re.DOTALL) else ""
    if (wrong := _scalar_error(place, value, kind)) is not None:
        return wrong
    for bound in further:
        comparison, limit = bound.split(" ")
        if not COMPARISONS[comparison](value, float(limit)):
            wanted = "positive" if bound == "> 0" else f"{BOUNDS[comparison]} {limit}"
            return f"{place}={represent(value)} must be {wanted}"
    return None


def _mapping_error(place: str, value: dict[Any, Any], kind: Any) -> str | None:
    for key, one in value.items():
        there = f"{place}.{key}"
        if re.fullmatch("_.*_", str(key)):
            return f"{there} is not allowed here; choose another name"
        check_name(str(key), f"the name of one of {place}")
        if one is None and _error("", None, kind):
            return f"{there}=null is empty; remove it with ~{there}"
        if wrong := _error(there, one, kind):
            return wrong
    return None


def _group_error(place: str, value: Mapping[str, Any], fields: Mapping[str, Any]) -> str | None:
    """The error of a group of options with given types, or None."""
    for key, one in value.items():
        there = f"{place}.{key}" if place else str(key)
        if key not in fields:
            return _unknown_option(there, str(key), place, fields)
        if wrong := _error(there, one, fields[key]):
            return wrong
    return None


def _fields_error(place: str, value: Mapping[str, Any], kind: type) -> str | None:
    """The error of a group of options that are the arguments of a class, or None."""
    known = signatures.arguments(kind) or {}
    wrong = _group_error(place, value, {name: one.hint for name, one in known.items()})
    return wrong or _missing_argument(place, value, known, kind)


def _missing_argument(
    place: str, given: Mapping[str, Any], known: Mapping[str, Argument], thing: targets.Thing
) -> str | None:
    key = next((key for key, one in known.items() if one.default is inspect.Parameter.empty and key not in given), None)
    name = targets.definition(thing)[1]
    return key and f"{place} is missing the argument {key!r} of {name}; give it as +{place}.{key}=VALUE"


def _unknown_option(place: str, key: str, where: str, known: Iterable[str]) -> str:
    if known is TRAINER and key in DECIDED:
        return f"{place} is set by oodgen; use {DECIDED[key]}"
    near = difflib.get_close_matches(key, known := list(known), n=3, cutoff=0.7)
    there = f"{where} has: " if where else "there are: "
    mend = f"did you mean {' or '.join(near)}?" if near else there + (", ".join(known) or "none")
    return f"there is no option {place!r}; {mend}"


def _untyped_error(place: str, value: Any) -> str | None:
    """The error of a value of unknown type, which may not contain a `_target_`, or None."""
    if isinstance(value, dict):
        if special := next((key for key in value if not isinstance(key, str) or re.fullmatch("_.*_", key)), None):
            return f"{place}.{special}={represent(value[special])} is not allowed here"
        return next(filter(None, (_untyped_error(f"{place}.{key}", one) for key, one in value.items())), None)
    if isinstance(value, list):
        return next(filter(None, (_untyped_error(f"{place}[{i}]", one) for i, one in enumerate(value))), None)
    return _scalar_error(place, value, float) or None if isinstance(value, float) else None


def _part_error(place: str, config: Mapping[str, Any], hint: Any, owner: str) -> str | None:
    """The error of a part with a `_target_`, or None."""
    if not part_types(hint):
        return f"{place}._target_={represent(config['_target_'])} is not allowed here; {place} is {describe(hint)}"
    for key, value in config.items():
        if key in FLAGS and type(value) is not bool:
            return f"{place}.{key}={represent(value)} is not true or false"
        if not isinstance(key, str) or (re.fullmatch("_.*_", key) and key not in (*FLAGS, "_target_")):
            return f"{place}.{key} is not allowed here; beside _target_ there are {' and '.join(FLAGS)}"
    thing = targets.resolve_target(config, hint)
    if thing is None:
        return targets.refusal(place, config, hint, owner)
    given = {key: value for key, value in config.items() if key not in (*FLAGS, "_target_")}
    known = targets.arguments(thing)
    if known is None:
        return _untyped_error(place, given)
    later = targets.call_arguments(thing, hint) if targets.is_factory(config) else 0
    known = dict(list(known.items())[later:])
    for key, value in given.items():
        if key not in known and "**" not in known:
            return _unknown_option(f"{place}.{key}", key, place, known)
        argument = known.get(key, Argument(UNKNOWN, UNKNOWN))
        wrong = _error(f"{place}.{key}", value, argument.hint, targets.definition(thing)[1])
        if wrong and not (value is None and argument.default is None):
            return wrong
    return _missing_argument(place, given, known, thing) if later or not targets.is_factory(config) else None
