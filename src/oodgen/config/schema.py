"""Whether a config says what may be said: every option's type and range, and what may be built where.

It is decided from `oodgen.config.allowed` and from the source of the constructors, before anything is imported, built,
trained, deleted or written. What a place may hold follows from the type that it wants: a class or function at the level
of a module of ours, public there (`__all__`), whose bases or returned type lead to it; the same of an admitted plug-in;
or a class of another package that is named in `allowed.OTHERS`.
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
from oodgen.config.signatures import UNSAID, Argument, Function
from oodgen.errors import UserError
from oodgen.runs.files import check_name
from oodgen.runs.locations import config_dir

__all__ = [
    "UNSAID",
    "Other",
    "Thing",
    "admitted",
    "arguments",
    "check",
    "check_part",
    "defined",
    "expected",
    "inside",
    "parts",
    "returned",
]

ROOMS = tuple(f"oodgen.{room}." for room in ("models", "methods", "probes", "scores", "data"))
SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
FLAGS = ("_partial_", "_fresh_")
TARGET = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)  # no private name, so no dunder
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    **{">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "!=": operator.ne},
}
BOUNDS = {">=": "at least", ">": "larger than", "<=": "at most", "<": "below", "!=": "other than"}


@dataclass(frozen=True)
class Other:
    """A class of another package that may be built."""

    target: str
    kind: type


Thing = type | Function | Other


def check(config: Mapping[str, Any]) -> None:
    """Check a resolved config as a whole.

    Raises:
        UserError: an option that there is not, a value that an option does not take, or a `_target_` that may not stand
            where it does; one line that names it by its place.
    """
    known = {key: config[key] for key in RUN if key in config}  # in this order: what others take over comes first
    wrong = _missing(config) or _group("", known | dict(config), RUN)
    member = config["method"].get("member") if isinstance(config.get("method"), dict) else None
    if wrong is None and isinstance(member, dict) and member.get("seed", config["seed"]) != config["seed"]:
        seed = config["seed"]
        wrong = (
            f"method.member.seed={member['seed']} would have no effect, since members' seeds follow from seed={seed}"
        )
    if wrong is not None:
        raise UserError(wrong)


def check_part(config: Any, where: str) -> None:
    """Check what stands at one place of a config, as "method" or "probes.bounds".

    Raises:
        UserError: as `check`.
    """
    if (wrong := _missing(config, where) or _complaint(where, config, expected(where))) is not None:
        raise UserError(wrong)


def expected(where: str) -> Any:
    """What may stand at a place of a config: of those in a group, as probes, what may stand under any name."""
    first, _, name = where.partition(".")
    hint = _hint(RUN.get(first, UNSAID))
    return _hint(typing.get_args(hint)[1]) if name and typing.get_origin(hint) is Mapping else hint


def admitted(target: str, hint: Any, config: Mapping[str, Any]) -> Thing:
    """What a checked `_target_` names.

    Raises:
        UserError: it may not stand where something of this type is wanted.
    """
    kinds = parts(hint)
    thing = _found(target, kinds)
    if thing is None or _fits_any(thing, kinds, _called(config)) is False:
        raise UserError(f"_target_={target} {_refusal(target, kinds)}")
    return thing


def inside(hint: Any, container: type) -> Any:
    """The type of what lies in a list or a mapping of this type."""
    for option in _options(hint):
        origin, inner = typing.get_origin(option), typing.get_args(option)
        if origin in ((Mapping, dict) if container is dict else (Sequence, list, tuple, Iterable)) and inner:
            return inner[1] if container is dict else inner[0]
    return UNSAID


def returned(hint: Any) -> Any:
    """The type of what a function of this type returns."""
    return next(
        (typing.get_args(option)[1] for option in _options(hint) if typing.get_origin(option) is Callable), hint
    )


def defined(thing: Thing) -> tuple[str, str]:
    """The module and the name of a thing."""
    if isinstance(thing, Other):
        module, _, name = thing.target.rpartition(".")
        return module, name
    return signatures.defined(thing)


def arguments(thing: Thing) -> Mapping[str, Argument] | None:
    """The arguments that a config may give; None if its source does not tell."""
    if isinstance(thing, Other):
        return {name: Argument(hint, None) for name, hint in OTHERS[_name(thing.kind)][thing.target].items()}
    return signatures.arguments(thing)


def _missing(config: Any, where: str = "") -> str | None:
    """What Hydra calls missing: an option without a default."""
    if config == "???":
        return f"{where} is not set; give it as {where}=VALUE"
    if not isinstance(config, (dict, list)):
        return None
    items = config.items() if isinstance(config, dict) else enumerate(config)
    return next(filter(None, (_missing(value, f"{where}.{key}".lstrip(".")) for key, value in items)), None)


def _packages() -> frozenset[str]:
    return frozenset({"oodgen", *plugins.admitted()})


def _hint(hint: Any) -> Any:
    """A type; a class of another package or of ours is written as its name."""
    if isinstance(hint, Parts):
        return Mapping[str, _hint(hint.kind)]  # type: ignore[misc]
    return signatures.named(hint, _packages()) if isinstance(hint, str) else hint


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"


def _options(hint: Any) -> list[Any]:
    """The types of which one is enough."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [_hint(option) for option in (typing.get_args(hint) if union else (hint,))]


def parts(hint: Any) -> list[Any]:
    """Those of the types that something built with a `_target_` can be."""
    return [
        option
        for option in _options(hint)
        if typing.get_origin(option) is Callable
        or (isinstance(option, type) and option.__module__ not in ("builtins", "pathlib", "typing", "collections.abc"))
    ]


def _complaint(place: str, value: Any, hint: Any, owner: str = "") -> str | None:
    """What is wrong with a value; None if it may be of the annotated type."""
    hint = _hint(hint)
    if hint is UNSAID or hint is Any:
        return _plain(place, value)
    options = _options(hint)
    if isinstance(value, dict) and "_target_" in value:
        return _part(place, value, hint, owner)
    found = [_of_one(place, value, option) for option in options]
    if None in found:
        return None
    return next(filter(None, found), None) or f"{place}={_said(value)} is not {_words(hint)}{_mend(place, value, hint)}"


def _mend(place: str, value: Any, hint: Any) -> str:
    options = _options(hint)
    texts = [text for option in options for text in _literals(option) if isinstance(text, str)]
    if isinstance(value, str) and (near := difflib.get_close_matches(value, texts, n=1)):
        return f"; did you mean {near[0]}?"
    if isinstance(value, str) and (kinds := [kind for kind in parts(hint) if isinstance(kind, type)]):
        key, *_ = [*(group for group in (_group_of(place),) if group), kinds[0].__name__.lower()]
        return f"; choose it as {key}@{place}={value}"
    if type(value) in (int, float) and any(_base(option) is str for option in options):
        return f"; Hydra reads it as a number, so write it in quotes, '{value}'"
    if any(typing.get_origin(option) is Sequence for option in options) and isinstance(value, (int, str)):
        return f"; write {place}=[{_said(value) if isinstance(value, bool) else value}]"
    return ""


def _of_one(place: str, value: Any, hint: Any) -> str | None:
    """None if a value fits one type, "" if it is none of these, or what is wrong with a part of it."""
    if isinstance(hint, Mapping):
        return _group(place, value, hint) if isinstance(value, dict) else ""
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Annotated:
        return _annotated(place, value, *inner)
    if origin in SCALARS:
        return _scalar(place, value, origin)
    if origin is typing.Literal:
        return None if any(type(value) is type(one) and value == one for one in inner) else ""
    if origin in (Sequence, list, tuple, Iterable):
        if not isinstance(value, list):
            return ""
        if origin is tuple and ... not in inner and len(value) != len(inner):
            return f"{place}={value} is not a list of {len(inner)}"
        kinds = inner if origin is tuple and ... not in inner else repeat(inner[0] if inner else Any)
        wrong = (
            _complaint(f"{place}[{i}]", one, kind) for i, (one, kind) in enumerate(zip(value, kinds, strict=False))
        )
        return next(filter(None, wrong), None)
    if origin in (Mapping, dict):
        return _mapping(place, value, inner[1] if inner else Any) if isinstance(value, dict) else ""
    if origin is Path:
        return None if isinstance(value, str) and value and "\0" not in value else ""
    return ""  # no bare value stands for a thing


def _scalar(place: str, value: Any, kind: type) -> str | None:
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        return ""
    if kind is float and not abs(value) <= sys.float_info.max:
        return f"{place}={_said(value)} must be a finite number"
    if kind is int and abs(value) >= 2**63:
        return f"{place}={_said(value)} is beyond what a whole number may be here"
    return None


def _annotated(place: str, value: Any, kind: Any, *further: Any) -> str | None:
    """A type with bounds, a pattern, or the class whose fields are a group's keys."""
    if typing.get_origin(kind) is Mapping:
        return _fields(place, value, _hint(further[0])) if isinstance(value, dict) else ""
    if kind is str:
        return None if isinstance(value, str) and re.fullmatch(further[1], value, re.DOTALL) else ""
    if wrong := _scalar(place, value, kind):
        return wrong
    if _scalar(place, value, kind) == "":
        return ""
    for bound in further:
        comparison, _, limit = bound.partition(" ")
        if not COMPARISONS[comparison](value, float(limit)):
            words = "positive" if bound == "> 0" else f"{BOUNDS[comparison]} {limit}"
            return f"{place}={_said(value)} must be {words}"
    return None


def _mapping(place: str, value: dict[Any, Any], kind: Any) -> str | None:
    for key, one in value.items():
        there = f"{place}.{key}"
        if re.fullmatch("_.*_", str(key)):
            return f"{there} may not stand there; it wants names of your own"
        check_name(str(key), f"the name of one of {place}")
        if one is None and _complaint("", None, kind):
            return f"{there}=null names nothing; leave it out with ~{there}"
        if wrong := _complaint(there, one, kind):
            return wrong
    return None


def _group(place: str, value: Mapping[str, Any], fields: Mapping[str, Any]) -> str | None:
    """A group of options, each by its name."""
    for key, one in value.items():
        there = f"{place}.{key}" if place else str(key)
        if key not in fields:
            return _unknown(there, str(key), place, fields)
        if wrong := _complaint(there, one, fields[key]):
            return wrong
    return None


def _fields(place: str, value: Mapping[str, Any], kind: type) -> str | None:
    """A group of options that are the arguments of a class."""
    known = signatures.arguments(kind) or {}
    wrong = _group(place, value, {name: one.hint for name, one in known.items()})
    return wrong or _lack(place, value, known, kind)


def _lack(place: str, value: Mapping[str, Any], known: Mapping[str, Argument], thing: Thing) -> str | None:
    lacks = [key for key, one in known.items() if one.default is inspect.Parameter.empty and key not in value]
    return (
        f"{place} is missing the argument {lacks[0]!r} of {_said_of(thing)}; give it as +{place}.{lacks[0]}=VALUE"
        if lacks
        else None
    )


def _unknown(place: str, key: str, where: str, known: Iterable[str]) -> str:
    if known is TRAINER and key in DECIDED:
        return f"{place} is decided by oodgen; say it as {DECIDED[key]}=VALUE"
    near = difflib.get_close_matches(key, known := list(known), n=3, cutoff=0.7)
    there = f"{where} has: " if where else "there are: "
    mend = f"did you mean {' or '.join(near)}?" if near else there + (", ".join(known) or "none")
    return f"there is no option {place!r}; {mend}"


def _plain(place: str, value: Any) -> str | None:
    """A value of whose type nothing is known: nothing may be built in it."""
    if isinstance(value, dict):
        if special := next((key for key in value if not isinstance(key, str) or re.fullmatch("_.*_", key)), None):
            return f"{place}.{special}={_said(value[special])} may not stand there"
        return next(filter(None, (_plain(f"{place}.{key}", one) for key, one in value.items())), None)
    if isinstance(value, list):
        return next(filter(None, (_plain(f"{place}[{i}]", one) for i, one in enumerate(value))), None)
    return _scalar(place, value, float) or None if isinstance(value, float) else None


def _called(config: Mapping[str, Any]) -> bool:
    """Whether what is built is a function that builds the thing, or calls it, later."""
    return any(config.get(flag) is True for flag in FLAGS)


def _part(place: str, config: Mapping[str, Any], hint: Any, owner: str) -> str | None:
    """What is wrong with something that is to be built."""
    target, kinds = config["_target_"], parts(hint)
    if not kinds:
        return f"{place}._target_={_said(target)} may not stand there; {place} is {_words(hint)}"
    for key, value in config.items():
        if key in FLAGS and type(value) is not bool:
            return f"{place}.{key}={_said(value)} is not true or false"
        if not isinstance(key, str) or (re.fullmatch("_.*_", key) and key not in (*FLAGS, "_target_")):
            return f"{place}.{key} may not stand there; beside _target_ there are {' and '.join(FLAGS)}"
    thing = _found(target, kinds) if isinstance(target, str) and TARGET.fullmatch(target) else None
    if thing is None:
        return f"{place}._target_={_said(target)} {_refusal(target, kinds)}"
    if _fits_any(thing, kinds, _called(config)) is False:
        return _misfit(place, thing, hint, config, owner)
    given = {key: value for key, value in config.items() if not (key in FLAGS or key == "_target_")}
    known = arguments(thing)
    if known is None:
        return next(filter(None, (_plain(f"{place}.{key}", value) for key, value in given.items())), None)
    later = _later(thing, kinds) if _called(config) else 0
    known = dict(list(known.items())[later:])
    for key, value in given.items():
        there = f"{place}.{key}"
        if key not in known and "**" not in known:
            return _unknown(there, key, place, known)
        argument = known.get(key, Argument(UNSAID, UNSAID))
        if value is None and argument.default is None and not isinstance(thing, Other):
            continue
        if wrong := _complaint(there, value, argument.hint, _said_of(thing)):
            return wrong
    return _lack(place, given, known, thing) if later or not _called(config) else None


def _later(thing: Thing, kinds: Sequence[Any]) -> int:
    """How many arguments a function gets when it is called."""
    if not isinstance(thing, Function):
        return 0
    asked = next((typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is Callable), ...)
    return 0 if asked is ... else len(asked)


def _found(target: str, kinds: Sequence[Any]) -> Thing | None:
    """What a name means, if something of this name may be built at all."""
    if not TARGET.fullmatch(target):
        return None
    for kind in map(_result, kinds):
        if isinstance(kind, type) and target in OTHERS.get(_name(kind), {}):
            return Other(target, kind)
    top, packages = target.partition(".")[0], _packages()
    if not target.startswith(ROOMS) and (top == "oodgen" or top not in packages):
        return None
    try:
        thing = signatures.find(target, packages)
    except (SyntaxError, ValueError, OSError, RecursionError) as error:
        raise UserError(f"cannot read what {target} is ({error}); mend the source of {top}") from error
    if thing is None:
        return None
    module, name = signatures.defined(thing)
    if top != "oodgen":  # of a plug-in what its own modules define, under any name
        return thing if module.partition(".")[0] == top else None
    source = thing.source if isinstance(thing, Function) else vars(thing)["source"]
    return thing if f"{module}.{name}" == target and name in (source.public or ()) else None


def _result(kind: Any) -> Any:
    """The kind of what a function of that kind returns."""
    return typing.get_args(kind)[1] if typing.get_origin(kind) is Callable else kind


def _fits_any(thing: Thing, kinds: Sequence[Any], called: bool) -> bool | None:
    """Whether a thing may stand where one of the kinds is wanted; None if only the thing itself could tell."""
    found = [_fits(thing, kind, called) for kind in kinds]
    return True if True in found else None if None in found else False


def _fits(thing: Thing, kind: Any, called: bool) -> bool | None:
    if typing.get_origin(kind) is not Callable:
        return False if called else _is(thing, kind)
    asked, result = typing.get_args(kind)
    if called:
        if isinstance(thing, Function) and asked is not ...:
            known = list((signatures.arguments(thing) or {}).values())[: len(asked)]
            if len(known) < len(asked):
                return False
            told = [one.hint for one in known]
            if told != asked:
                return None if UNSAID in told and not _of_ours(thing) else False
        return _is(thing, result)
    if isinstance(thing, (Other, Function)):
        return False
    call = signatures.method(thing, "__call__")
    if call is None:
        return None if not _complete(thing) else False
    return (None if not _of_ours(thing) else False) if call.returns is UNSAID else call.returns == result


def _is(thing: Thing, kind: Any) -> bool | None:
    """Whether a class is of a kind, or a function returns one of it."""
    if isinstance(thing, Other):
        return issubclass(thing.kind, kind)
    if isinstance(thing, Function):
        if thing.returns is UNSAID:
            return False if _of_ours(thing) else None
        return isinstance(thing.returns, type) and issubclass(thing.returns, kind)
    if kind.__module__.startswith("oodgen.data.") and kind.__module__ != "oodgen.data.module" and _of_ours(thing):
        return False  # sets, transformations and attacks are made by functions
    if issubclass(thing, kind) and not signatures.is_protocol(kind):
        return True
    if signatures.is_protocol(kind) and all(_has(thing, name) for name in _members(kind)):
        return True
    return False if _complete(thing) else None


def _of_ours(thing: type | Function) -> bool:
    return signatures.defined(thing)[0].startswith("oodgen.")


def _complete(thing: type) -> bool:
    """Whether the source of all that a class inherits from was read, or is one that is known by name."""
    return _of_ours(thing) or (
        all("node" not in vars(base) or vars(base)["known"] for base in thing.__mro__)
        and all("node" in vars(base) or base is object for base in thing.__mro__)
    )


def _members(kind: type) -> list[str]:
    """The names that a protocol asks for."""
    names = [getattr(node, "name", None) or ast_target(node) for node in vars(kind)["node"].body]
    return [name for name in names if name]


def ast_target(node: Any) -> str:
    target = getattr(node, "target", None) or next(iter(getattr(node, "targets", [])), None)
    return str(getattr(target, "id", ""))


def _has(thing: type, name: str) -> bool:
    return any(name in _members(base) for base in thing.__mro__ if "node" in vars(base))


def _said_of(thing: Thing) -> str:
    return thing.target.rpartition(".")[2] if isinstance(thing, Other) else signatures.defined(thing)[1]


def _refusal(target: Any, kinds: Sequence[Any]) -> str:
    """Why nothing of this name may be built, and what may."""
    wanted = " or ".join(map(_word, kinds))
    names = [name for kind in map(_result, kinds) if isinstance(kind, type) for name in OTHERS.get(_name(kind), {})]
    if names:
        near = difflib.get_close_matches(str(target), names, n=3, cutoff=0.6)
        return f"may not stand there; it wants {wanted}: {', '.join(near or names)}"
    if not isinstance(target, str) or not TARGET.fullmatch(target):
        return f"is not the name of a class or function; it wants {wanted}"
    module, _, name = target.rpartition(".")
    if target.startswith(ROOMS):
        source = signatures._source(module, _packages())
        known = sorted(source.public or ()) if source else []
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
        return (
            f"does not exist, or is not public; {f'{module} has: ' + ', '.join(near) if near else 'it wants ' + wanted}"
        )
    mend = "" if target.startswith("oodgen.") else f"; {plugins.refusal(target)}"
    return f"may not stand there; it wants {wanted}{mend}"


def _misfit(place: str, thing: Thing, hint: Any, config: Mapping[str, Any], owner: str) -> str:
    """Something that exists, at a place that wants something else."""
    kinds, name = parts(hint), _said_of(thing)
    called = _called(config)
    if called and _fits_any(thing, kinds, False):
        flag = next(flag for flag in FLAGS if config.get(flag))
        return f"{place}.{flag}=true makes a function of {name}, where {_words(hint)} is wanted; leave it out"
    if not called and _fits_any(thing, kinds, True):
        return f"{place} is to be called later; it wants _partial_: true beside _target_={config['_target_']}"
    made = _word(_result_of(thing))
    kind = name if isinstance(thing, type) else f"{name}, {made},"
    mend = f"; choose another, as {' or '.join(near)}" if (near := _choices(place, hint)) else ""
    taker = f"{owner} takes" if owner else f"{place} is"
    return f"{place}={name}: {taker} {_words(hint)}, which {kind} is not{mend}"


def _result_of(thing: Thing) -> Any:
    return thing.returns if isinstance(thing, Function) else thing


def _group_of(place: str) -> str:
    """The folder of conf whose files are choices for a place."""
    key = place.rpartition(".")[2]
    parts = place.split(".")
    groups = {"inlier": "dataset", "negative": "dataset", "out": "dataset", "auxiliary": "dataset", "probes": "probe"}
    found = groups.get(key) or (groups.get(parts[-2]) if len(parts) > 1 else None) or key
    return found if (config_dir() / found).is_dir() else ""


def _choices(place: str, hint: Any) -> list[str]:
    """The choices of conf that would fit at a place, at most three."""
    group, found = _group_of(place), []
    for path in sorted((config_dir() / group).glob("*.yaml")) if group else ():
        target = re.search(r"^_target_: *(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        thing = _found(target[1], parts(hint)) if target else None
        if thing is not None and _fits_any(thing, parts(hint), False):
            found.append(f"{group if group == 'model' else f'{group}@{place}'}={path.stem}")
    return found[:3]


def _base(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def _literals(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _words(hint: Any) -> str:
    return " or ".join(dict.fromkeys(_word(option) for option in _options(hint)))


def _word(hint: Any) -> str:
    if isinstance(hint, Mapping):
        return "a group of options"
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Annotated:
        return inner[1] if inner[0] is str else _word(inner[0])
    if origin in SCALARS:
        return SCALARS[origin]
    if origin is typing.Literal:
        return " or ".join(map(_said, dict.fromkeys(map(str, inner))))
    if origin in (Sequence, list, tuple, Iterable):
        return "a list"
    if origin in (Mapping, dict):
        return "a group of options"
    if origin is Callable:
        return f"a function that returns {_word(inner[1])}"
    return "a path" if origin is Path else f"a {getattr(origin, '__name__', origin)}"


def _said(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
