"""Validation of configs: type and range of every option, and the permitted `_target_` of every part.

The types come from `oodgen.config.allowed` and from the source of the constructors; validation precedes any import,
training, deletion or writing. A part of type T may be a public (`__all__`) class or function at the top level of a
module of ours that is a subclass of T, or returns one; the same of an admitted plug-in; or a class in `allowed.OTHERS`.
"""

import difflib
import inspect
import math
import operator
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from oodgen.config import plugins, signatures
from oodgen.config.allowed import DECIDED, OTHERS, RUN, TRAINER, Parts
from oodgen.config.signatures import UNKNOWN, Argument, Function
from oodgen.errors import UserError
from oodgen.runs.files import check_name
from oodgen.runs.locations import config_dir

__all__ = [
    "UNKNOWN",
    "Other",
    "Thing",
    "arguments",
    "check",
    "check_part",
    "definition",
    "element_type",
    "expected_type",
    "part_types",
    "resolve_target",
    "return_type",
]

TARGET_PACKAGES = tuple(f"oodgen.{folder}." for folder in ("models", "methods", "probes", "scores", "data"))
SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
FLAGS = ("_partial_", "_fresh_")
TARGET = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)  # no private names
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    **{">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "!=": operator.ne}
}
BOUNDS = {">=": "at least", ">": "larger than", "<=": "at most", "<": "below", "!=": "other than"}


@dataclass(frozen=True)
class Other:
    """A permitted class of another package, with the type under which it is permitted."""

    target: str
    kind: type


Thing = type | Function | Other


def check(config: Mapping[str, Any]) -> None:
    """Check a complete resolved config.

    Raises:
        UserError: an unknown option, a value of a wrong type or range, or a `_target_` that is not permitted at its
            place; one line with the option's key.
    """
    # in the order of RUN, so that interpolated options are checked first
    known = {key: config[key] for key in RUN if key in config}
    wrong = _missing_option(config) or _group_error("", known | dict(config), RUN)
    member = config["method"].get("member") if isinstance(config.get("method"), dict) else None
    if wrong is None and isinstance(member, dict) and member.get("seed", config["seed"]) != config["seed"]:
        seed = config["seed"]
        wrong = (
            f"method.member.seed={member['seed']} would have no effect, since members' seeds follow from seed={seed}"
        )
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
    hint = _hint(RUN.get(first, UNKNOWN))
    return _hint(typing.get_args(hint)[1]) if name and typing.get_origin(hint) is Mapping else hint


def resolve_target(target: str, hint: Any, config: Mapping[str, Any]) -> Thing:
    """The class or function of a `_target_`.

    Raises:
        UserError: it is not permitted for a part of type `hint`.
    """
    kinds = part_types(hint)
    thing = _resolve(target, kinds)
    if thing is None or _fits_any(thing, kinds, _is_factory(config)) is False:
        raise UserError(f"_target_={target} {_refusal(target, kinds)}")
    return thing


def element_type(hint: Any, container: type) -> Any:
    """The type of the elements of a list or mapping of type `hint`."""
    for option in _options(hint):
        origin, inner = typing.get_origin(option), typing.get_args(option)
        if origin in ((Mapping, dict) if container is dict else (Sequence, list, tuple, Iterable)) and inner:
            return inner[1] if container is dict else inner[0]
    return UNKNOWN


def return_type(hint: Any) -> Any:
    """The return type of a function of type `hint`, or `hint` itself."""
    return next(
        (typing.get_args(option)[1] for option in _options(hint) if typing.get_origin(option) is Callable), hint
    )


def definition(thing: Thing) -> tuple[str, str]:
    """The module and the name of a target."""
    if isinstance(thing, Other):
        module, _, name = thing.target.rpartition(".")
        return module, name
    return signatures.definition(thing)


def arguments(thing: Thing) -> Mapping[str, Argument] | None:
    """The arguments that a config may give; None if the source does not determine them."""
    if isinstance(thing, Other):
        return {name: Argument(hint, None) for name, hint in OTHERS[_name(thing.kind)][thing.target].items()}
    return signatures.arguments(thing)


def _missing_option(config: Any, where: str = "") -> str | None:
    """The error of the first missing value (`???`), or None."""
    if config == "???":
        return f"{where} is not set; give it as {where}=VALUE"
    if not isinstance(config, (dict, list)):
        return None
    items = config.items() if isinstance(config, dict) else enumerate(config)
    return next(filter(None, (_missing_option(value, f"{where}.{key}".lstrip(".")) for key, value in items)), None)


def _packages() -> frozenset[str]:
    return frozenset({"oodgen", *plugins.admitted()})


def _hint(hint: Any) -> Any:
    """Resolve a type that is given by its dotted name, or `Parts`."""
    if isinstance(hint, Parts):
        return Mapping[str, _hint(hint.kind)]  # type: ignore[misc]
    return signatures.resolve_name(hint, _packages()) if isinstance(hint, str) else hint


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"


def _options(hint: Any) -> list[Any]:
    """The types of which one is enough."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [_hint(option) for option in (typing.get_args(hint) if union else (hint,))]


def part_types(hint: Any) -> list[Any]:
    """The alternatives of a type that can be built by a `_target_`."""
    return [
        option
        for option in _options(hint)
        if typing.get_origin(option) is Callable
        or (isinstance(option, type) and option.__module__ not in ("builtins", "pathlib", "typing", "collections.abc"))
    ]


def _error(place: str, value: Any, hint: Any, owner: str = "") -> str | None:
    """The error of a value that does not have the annotated type, or None."""
    hint = _hint(hint)
    if hint is UNKNOWN or hint is Any:
        return _untyped_error(place, value)
    options = _options(hint)
    if isinstance(value, dict) and "_target_" in value:
        return _part_error(place, value, hint, owner)
    found = [_type_error(place, value, option) for option in options]
    if None in found:
        return None
    return (
        next(filter(None, found), None) or f"{place}={_repr(value)} is not {_describe(hint)}{_mend(place, value, hint)}"
    )


def _mend(place: str, value: Any, hint: Any) -> str:
    options = _options(hint)
    texts = [text for option in options for text in _literals(option) if isinstance(text, str)]
    if isinstance(value, str) and (near := difflib.get_close_matches(value, texts, n=1)):
        return f"; did you mean {near[0]}?"
    if isinstance(value, str) and (kinds := [kind for kind in part_types(hint) if isinstance(kind, type)]):
        key, *_ = [*(group for group in (_group_of(place),) if group), kinds[0].__name__.lower()]
        return f"; choose it as {key}@{place}={value}"
    if type(value) in (int, float) and any(_base(option) is str for option in options):
        return f"; Hydra reads it as a number, so write it in quotes, '{value}'"
    if any(typing.get_origin(option) is Sequence for option in options) and isinstance(value, (int, str)):
        return f"; write {place}=[{_repr(value) if isinstance(value, bool) else value}]"
    return ""


def _type_error(place: str, value: Any, hint: Any) -> str | None:
    """None if a value has one alternative of a type, "" if it is of another type, or the error of a part of it."""
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
    return ""  # other types are built by a `_target_`


def _scalar_error(place: str, value: Any, kind: type) -> str | None:
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        return ""
    if kind is float and not abs(value) <= sys.float_info.max:
        return f"{place}={_repr(value)} must be a finite number"
    if kind is int and abs(value) >= 2**63:
        return f"{place}={_repr(value)} is beyond what a whole number may be here"
    return None


def _annotated_error(place: str, value: Any, kind: Any, *further: Any) -> str | None:
    """As `_type_error`, for a type with bounds, a pattern, or a class whose fields are the keys of a group."""
    if typing.get_origin(kind) is Mapping:
        return _fields_error(place, value, _hint(further[0])) if isinstance(value, dict) else ""
    if kind is str:
        return None if isinstance(value, str) and re.fullmatch(further[1], value, re.DOTALL) else ""
    if wrong := _scalar_error(place, value, kind):
        return wrong
    if _scalar_error(place, value, kind) == "":
        return ""
    for bound in further:
        comparison, _, limit = bound.partition(" ")
        if not COMPARISONS[comparison](value, float(limit)):
            words = "positive" if bound == "> 0" else f"{BOUNDS[comparison]} {limit}"
            return f"{place}={_repr(value)} must be {words}"
    return None


def _mapping_error(place: str, value: dict[Any, Any], kind: Any) -> str | None:
    for key, one in value.items():
        there = f"{place}.{key}"
        if re.fullmatch("_.*_", str(key)):
            return f"{there} may not stand there; it wants names of your own"
        check_name(str(key), f"the name of one of {place}")
        if one is None and _error("", None, kind):
            return f"{there}=null names nothing; leave it out with ~{there}"
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


def _missing_argument(place: str, value: Mapping[str, Any], known: Mapping[str, Argument], thing: Thing) -> str | None:
    lacks = [key for key, one in known.items() if one.default is inspect.Parameter.empty and key not in value]
    return (
        f"{place} is missing the argument {lacks[0]!r} of {_name_of(thing)}; give it as +{place}.{lacks[0]}=VALUE"
        if lacks
        else None
    )


def _unknown_option(place: str, key: str, where: str, known: Iterable[str]) -> str:
    if known is TRAINER and key in DECIDED:
        return f"{place} is decided by oodgen; say it as {DECIDED[key]}=VALUE"
    near = difflib.get_close_matches(key, known := list(known), n=3, cutoff=0.7)
    there = f"{where} has: " if where else "there are: "
    mend = f"did you mean {' or '.join(near)}?" if near else there + (", ".join(known) or "none")
    return f"there is no option {place!r}; {mend}"


def _untyped_error(place: str, value: Any) -> str | None:
    """The error of a value of unknown type, which may not contain a `_target_`, or None."""
    if isinstance(value, dict):
        if special := next((key for key in value if not isinstance(key, str) or re.fullmatch("_.*_", key)), None):
            return f"{place}.{special}={_repr(value[special])} may not stand there"
        return next(filter(None, (_untyped_error(f"{place}.{key}", one) for key, one in value.items())), None)
    if isinstance(value, list):
        return next(filter(None, (_untyped_error(f"{place}[{i}]", one) for i, one in enumerate(value))), None)
    return _scalar_error(place, value, float) or None if isinstance(value, float) else None


def _is_factory(config: Mapping[str, Any]) -> bool:
    """Whether the part is a function (`_partial_` or `_fresh_`) instead of the target's result."""
    return any(config.get(flag) is True for flag in FLAGS)


def _part_error(place: str, config: Mapping[str, Any], hint: Any, owner: str) -> str | None:
    """The error of a part with a `_target_`, or None."""
    target, kinds = config["_target_"], part_types(hint)
    if not kinds:
        return f"{place}._target_={_repr(target)} may not stand there; {place} is {_describe(hint)}"
    for key, value in config.items():
        if key in FLAGS and type(value) is not bool:
            return f"{place}.{key}={_repr(value)} is not true or false"
        if not isinstance(key, str) or (re.fullmatch("_.*_", key) and key not in (*FLAGS, "_target_")):
            return f"{place}.{key} may not stand there; beside _target_ there are {' and '.join(FLAGS)}"
    thing = _resolve(target, kinds) if isinstance(target, str) and TARGET.fullmatch(target) else None
    if thing is None:
        return f"{place}._target_={_repr(target)} {_refusal(target, kinds)}"
    if _fits_any(thing, kinds, _is_factory(config)) is False:
        return _wrong_type(place, thing, hint, config, owner)
    given = {key: value for key, value in config.items() if not (key in FLAGS or key == "_target_")}
    known = arguments(thing)
    if known is None:
        return next(filter(None, (_untyped_error(f"{place}.{key}", value) for key, value in given.items())), None)
    later = _call_arguments(thing, kinds) if _is_factory(config) else 0
    known = dict(list(known.items())[later:])
    for key, value in given.items():
        there = f"{place}.{key}"
        if key not in known and "**" not in known:
            return _unknown_option(there, key, place, known)
        argument = known.get(key, Argument(UNKNOWN, UNKNOWN))
        if value is None and argument.default is None and not isinstance(thing, Other):
            continue
        if wrong := _error(there, value, argument.hint, _name_of(thing)):
            return wrong
    return _missing_argument(place, given, known, thing) if later or not _is_factory(config) else None


def _call_arguments(thing: Thing, kinds: Sequence[Any]) -> int:
    """The number of arguments that a function with `_partial_` receives when it is called."""
    if not isinstance(thing, Function):
        return 0
    argument_types = next((typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is Callable), ...)
    return 0 if argument_types is ... else len(argument_types)


def _resolve(target: str, kinds: Sequence[Any]) -> Thing | None:
    """The permitted class or function of a dotted name, or None."""
    if not TARGET.fullmatch(target):
        return None
    for kind in map(_result, kinds):
        if isinstance(kind, type) and target in OTHERS.get(_name(kind), {}):
            return Other(target, kind)
    top, packages = target.partition(".")[0], _packages()
    if not target.startswith(TARGET_PACKAGES) and (top == "oodgen" or top not in packages):
        return None
    try:
        thing = signatures.find_target(target, packages)
    except (SyntaxError, ValueError, OSError, RecursionError) as error:
        raise UserError(f"cannot read what {target} is ({error}); mend the source of {top}") from error
    if thing is None:
        return None
    module, name = signatures.definition(thing)
    if top != "oodgen":  # a plug-in's targets must be defined in its own modules
        return thing if module.partition(".")[0] == top else None
    source = thing.source if isinstance(thing, Function) else vars(thing)["source"]
    return thing if f"{module}.{name}" == target and name in (source.public or ()) else None


def _result(kind: Any) -> Any:
    """The return type of a function type, or the type itself."""
    return typing.get_args(kind)[1] if typing.get_origin(kind) is Callable else kind


def _fits_any(thing: Thing, kinds: Sequence[Any], called: bool) -> bool | None:
    """Whether a target has one of the types; None if the source does not determine it."""
    found = [_fits(thing, kind, called) for kind in kinds]
    return True if True in found else None if None in found else False


def _fits(thing: Thing, kind: Any, called: bool) -> bool | None:
    if typing.get_origin(kind) is not Callable:
        return False if called else _is_kind(thing, kind)
    argument_types, result = typing.get_args(kind)
    if called:
        if isinstance(thing, Function) and argument_types is not ...:
            known = list((signatures.arguments(thing) or {}).values())[: len(argument_types)]
            if len(known) < len(argument_types):
                return False
            given_types = [one.hint for one in known]
            if given_types != argument_types:
                return None if UNKNOWN in given_types and not _is_ours(thing) else False
        return _is_kind(thing, result)
    if isinstance(thing, (Other, Function)):
        return False
    call = signatures.method(thing, "__call__")
    if call is None:
        return None if not _fully_known(thing) else False
    return (None if not _is_ours(thing) else False) if call.returns is UNKNOWN else call.returns == result


def _is_kind(thing: Thing, kind: Any) -> bool | None:
    """Whether a class is a subclass of `kind`, or a function returns one; None if unknown."""
    if isinstance(thing, Other):
        return issubclass(thing.kind, kind)
    if isinstance(thing, Function):
        if thing.returns is UNKNOWN:
            return False if _is_ours(thing) else None
        return isinstance(thing.returns, type) and issubclass(thing.returns, kind)
    if kind.__module__.startswith("oodgen.data.") and kind.__module__ != "oodgen.data.module" and _is_ours(thing):
        return False  # sets, transforms and attacks are made by functions
    if issubclass(thing, kind) and not signatures.is_protocol(kind):
        return True
    if signatures.is_protocol(kind) and all(_has(thing, name) for name in _members(kind)):
        return True
    return False if _fully_known(thing) else None


def _is_ours(thing: type | Function) -> bool:
    return signatures.definition(thing)[0].startswith("oodgen.")


def _fully_known(thing: type) -> bool:
    """Whether all bases of a class are known."""
    return _is_ours(thing) or (
        all("node" not in vars(base) or vars(base)["known"] for base in thing.__mro__)
        and all("node" in vars(base) or base is object for base in thing.__mro__)
    )


def _members(kind: type) -> list[str]:
    """The names of the members of a protocol."""
    names = [getattr(node, "name", None) or ast_target(node) for node in vars(kind)["node"].body]
    return [name for name in names if name]


def ast_target(node: Any) -> str:
    target = getattr(node, "target", None) or next(iter(getattr(node, "targets", [])), None)
    return str(getattr(target, "id", ""))


def _has(thing: type, name: str) -> bool:
    return any(name in _members(base) for base in thing.__mro__ if "node" in vars(base))


def _name_of(thing: Thing) -> str:
    return thing.target.rpartition(".")[2] if isinstance(thing, Other) else signatures.definition(thing)[1]


def _refusal(target: Any, kinds: Sequence[Any]) -> str:
    """The reason why a target is not permitted, with alternatives."""
    wanted = " or ".join(map(_describe_type, kinds))
    names = [name for kind in map(_result, kinds) if isinstance(kind, type) for name in OTHERS.get(_name(kind), {})]
    if names:
        near = difflib.get_close_matches(str(target), names, n=3, cutoff=0.6)
        return f"may not stand there; it wants {wanted}: {', '.join(near or names)}"
    if not isinstance(target, str) or not TARGET.fullmatch(target):
        return f"is not the name of a class or function; it wants {wanted}"
    module, _, name = target.rpartition(".")
    if target.startswith(TARGET_PACKAGES):
        source = signatures._read_source(module, _packages())
        known = sorted(source.public or ()) if source else []
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
        return (
            f"does not exist, or is not public; {f'{module} has: ' + ', '.join(near) if near else 'it wants ' + wanted}"
        )
    mend = "" if target.startswith("oodgen.") else f"; {plugins.refusal(target)}"
    return f"may not stand there; it wants {wanted}{mend}"


def _wrong_type(place: str, thing: Thing, hint: Any, config: Mapping[str, Any], owner: str) -> str:
    """The error of a target of the wrong type."""
    kinds, name = part_types(hint), _name_of(thing)
    called = _is_factory(config)
    if called and _fits_any(thing, kinds, False):
        flag = next(flag for flag in FLAGS if config.get(flag))
        return f"{place}.{flag}=true makes a function of {name}, where {_describe(hint)} is wanted; leave it out"
    if not called and _fits_any(thing, kinds, True):
        return f"{place} is to be called later; it wants _partial_: true beside _target_={config['_target_']}"
    made = _describe_type(_result_of(thing))
    kind = name if isinstance(thing, type) else f"{name}, {made},"
    mend = f"; choose another, as {' or '.join(near)}" if (near := _choices(place, hint)) else ""
    taker = f"{owner} takes" if owner else f"{place} is"
    return f"{place}={name}: {taker} {_describe(hint)}, which {kind} is not{mend}"


def _result_of(thing: Thing) -> Any:
    return thing.returns if isinstance(thing, Function) else thing


def _group_of(place: str) -> str:
    """The group of conf whose files are choices for a key."""
    key = place.rpartition(".")[2]
    parts = place.split(".")
    groups = {"inlier": "dataset", "negative": "dataset", "out": "dataset", "auxiliary": "dataset", "probes": "probe"}
    found = groups.get(key) or (groups.get(parts[-2]) if len(parts) > 1 else None) or key
    return found if (config_dir() / found).is_dir() else ""


def _choices(place: str, hint: Any) -> list[str]:
    """Up to three choices of conf that have the type of a key."""
    group, found = _group_of(place), []
    for path in sorted((config_dir() / group).glob("*.yaml")) if group else ():
        target = re.search(r"^_target_: *(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        thing = _resolve(target[1], part_types(hint)) if target else None
        if thing is not None and _fits_any(thing, part_types(hint), False):
            found.append(f"{group if group == 'model' else f'{group}@{place}'}={path.stem}")
    return found[:3]


def _base(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def _literals(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _describe(hint: Any) -> str:
    return " or ".join(dict.fromkeys(_describe_type(option) for option in _options(hint)))


def _describe_type(hint: Any) -> str:
    if isinstance(hint, Mapping):
        return "a group of options"
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Annotated:
        return inner[1] if inner[0] is str else _describe_type(inner[0])
    if origin in SCALARS:
        return SCALARS[origin]
    if origin is typing.Literal:
        return " or ".join(map(_repr, dict.fromkeys(map(str, inner))))
    if origin in (Sequence, list, tuple, Iterable):
        return "a list"
    if origin in (Mapping, dict):
        return "a group of options"
    if origin is Callable:
        return f"a function that returns {_describe_type(inner[1])}"
    return "a path" if origin is Path else f"a {getattr(origin, '__name__', origin)}"


def _repr(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
