"""Permitted targets: which class or function may be built at which place, decided from sources without importing them.

A place wants a type. There may stand a class of ours, public in the module that defines it (`__all__`), whose bases
lead to that type, or a function whose returned type does; the same of an admitted plug-in; or a class of another
package that `oodgen.config.allowed.OTHERS` names for that type. Nothing else: no attribute of a class, no private or
imported name.
"""

import difflib
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from oodgen.config import plugins, signatures
from oodgen.config.allowed import OTHERS
from oodgen.config.kinds import describe, element_type, packages, part_types, represent, return_type
from oodgen.config.signatures import EMPTY, UNKNOWN, Argument, Function
from oodgen.errors import UserError
from oodgen.runs.locations import config_dir

__all__ = ["FLAGS", "Thing", "arguments", "call_arguments", "definition", "group", "is_factory", "refusal"]
__all__ += ["resolve_target", "suggestion"]

TARGET_PACKAGES = tuple(f"oodgen.{folder}." for folder in ("models", "methods", "probes", "scores", "data"))
TARGET = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)  # no private name, so no dunder
FLAGS = ("_partial_", "_fresh_")
GROUPS = {"inlier": "dataset", "negative": "dataset", "out": "dataset", "auxiliary": "dataset", "probes": "probe"}


@dataclass(frozen=True)
class Other:
    """A permitted class of another package, with the type under which it is permitted."""

    target: str
    kind: type


Thing = type | Function | Other


def resolve_target(config: Mapping[str, Any], hint: Any) -> Thing | None:
    """The class or function of a part's `_target_`; None if it is not permitted for the type `hint`."""
    thing = _find(config["_target_"], hint)
    return None if thing is None or _fits(thing, hint, is_factory(config)) is False else thing


def arguments(thing: Thing) -> Mapping[str, Argument] | None:
    """The arguments that a config may give; None if the source does not determine them."""
    if isinstance(thing, Other):
        return {name: Argument(hint, UNKNOWN) for name, hint in OTHERS[_name(thing.kind)][thing.target].items()}
    tensors = signatures.resolve_name("torch.Tensor", frozenset())  # which `fit` gives and no config
    found = signatures.arguments(thing)
    return found and {
        name: one
        for name, one in found.items()
        if one.default is inspect.Parameter.empty or element_type(one.hint, dict) != tensors
    }


def definition(thing: Thing) -> tuple[str, str]:
    """The module and the name of a thing."""
    if isinstance(thing, Other):
        module, _, name = thing.target.rpartition(".")
        return module, name
    return signatures.definition(thing)


def is_factory(config: Mapping[str, Any]) -> bool:
    """Whether the part is a function (`_partial_` or `_fresh_`) instead of the target's result."""
    return any(config.get(flag) is True for flag in FLAGS)


def call_arguments(thing: Thing, hint: Any) -> int:
    """The number of arguments that a function with `_partial_` receives when it is called."""
    asked = next((typing.get_args(kind)[0] for kind in part_types(hint) if typing.get_origin(kind) is Callable), ...)
    return len(asked) if isinstance(thing, Function) and asked is not ... else 0


def refusal(place: str, config: Mapping[str, Any], hint: Any, owner: str) -> str:
    """The error of a target that is not permitted, with alternatives.

    Arguments:
        place: The place.
        config: The part.
        hint: The type that the place wants.
        owner: The name of the thing whose argument it would be, "" if of none.
    """
    target, thing = config["_target_"], _find(config["_target_"], hint)
    if thing is None:
        return f"{place}._target_={represent(target)} {_unknown(place, target, hint)}"
    name = definition(thing)[1]
    if is_factory(config) and _fits(thing, hint, False) is not False:
        flag = next(flag for flag in FLAGS if config.get(flag))
        return f"{place}.{flag}=true makes a function of {name}, but {describe(hint)} is expected; remove it"
    if not is_factory(config) and _fits(thing, hint, True) is not False:
        return f"{place} must be a function; add _partial_: true beside _target_={target}"
    for wanted in part_types(hint) if isinstance(thing, Function) else ():
        asked, result = typing.get_args(wanted) if typing.get_origin(wanted) is Callable else (..., None)
        if asked is not ... and _is_kind(thing, result):
            told = re.sub(r"[\w.]+\.", "", ", ".join(map(str, asked)))
            return f"{place}={name}: annotate what it is called with as ({told})"
    why = f"but {name} returns {describe(thing.returns)}" if isinstance(thing, Function) else f"which {name} is not"
    mend = suggestion(place, hint)
    return f"{place}={name}: {f'{owner} takes' if owner else 'expected'} {describe(hint)}, {why}{mend}"


def suggestion(place: str, hint: Any) -> str:
    """What may stand at a place that wants a part, to be appended to an error: choices of conf, or classes; or ""."""
    found = _choices(place, hint) or [f"{place}._target_={name}" for name in list(_others(hint))[:3]]
    return f"; choose another, as {' or '.join(found)}" if found else ""


def group(place: str) -> str:
    """The folder of conf whose files are choices for a place; "" if there is none."""
    *_, parent, key = ("", *place.split("."))
    found = GROUPS.get(key) or GROUPS.get(parent) or key
    return found if (config_dir() / found).is_dir() else ""


def _name(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__name__}"


def _others(hint: Any) -> dict[str, type]:
    """The classes of other packages that a place may hold, by name."""
    kinds = [return_type(kind) for kind in part_types(hint)]
    return {name: kind for kind in kinds if isinstance(kind, type) for name in OTHERS.get(_name(kind), {})}


def _find(target: Any, hint: Any) -> Thing | None:
    """The permitted class or function of a dotted name, for any type, or None."""
    if not isinstance(target, str) or not TARGET.fullmatch(target):
        return None
    if (kind := _others(hint).get(target)) is not None:
        return Other(target, kind)
    top = target.partition(".")[0]
    if not target.startswith(TARGET_PACKAGES) and (top == "oodgen" or top not in packages()):
        return None
    try:
        thing = signatures.find_target(target, packages())
    except (SyntaxError, ValueError, OSError, RecursionError) as error:
        raise UserError(f"cannot read what {target} is ({error}); check the source of {top}") from error
    if thing is None:
        return None
    module, name = signatures.definition(thing)
    if top != "oodgen":  # of a plug-in all that its own modules define, under any name
        return thing if module.partition(".")[0] == top else None
    source = thing.source if isinstance(thing, Function) else vars(thing)["source"]
    return thing if f"{module}.{name}" == target and name in (source.public or ()) else None


def _fits(thing: Thing, hint: Any, called: bool) -> bool | None:
    """Whether a target has one of the types; None if the source does not determine it."""
    found = [_fits_type(thing, kind, called) for kind in part_types(hint)]
    return True if True in found else None if None in found else False


def _fits_type(thing: Thing, kind: Any, called: bool) -> bool | None:
    if typing.get_origin(kind) is not Callable:
        return False if called else _is_kind(thing, kind)
    asked, result = typing.get_args(kind)
    if called:
        first = list((signatures.arguments(thing) or {}).values()) if isinstance(thing, Function) else []
        told = [one.hint for one in first[: len(asked)]] if isinstance(thing, Function) and asked is not ... else asked
        if told != asked:
            return None if UNKNOWN in told and not _is_ours(thing) else False
        return _is_kind(thing, result)
    if isinstance(thing, (Other, Function)):
        return False
    call = signatures.method(thing, "__call__")
    if call is None:
        return False if _fully_known(thing) else None
    if call.returns is UNKNOWN:
        return False if _is_ours(thing) else None
    return call.returns == result


def _is_kind(thing: Thing, kind: Any) -> bool | None:
    """Whether a class is a subclass of `kind`, or a function returns one; None if unknown."""
    if isinstance(thing, Other):
        return issubclass(thing.kind, kind)
    if isinstance(thing, Function):
        if thing.returns is UNKNOWN:
            return False if _is_ours(thing) else None
        return isinstance(thing.returns, type) and issubclass(thing.returns, kind)
    if kind.__module__ in ("oodgen.data.catalog", "oodgen.data.adversarial") and _is_ours(thing):
        return False  # sets, transformations and attacks are made by functions
    if signatures.is_protocol(kind):
        fits = all(signatures.has(thing, name) for name in signatures.members(kind))
    else:
        fits = issubclass(thing, kind)
    return True if fits else False if _fully_known(thing) else None


def _is_ours(thing: Thing) -> bool:
    return definition(thing)[0].startswith("oodgen.")


def _fully_known(thing: type) -> bool:
    """Whether all bases of a class are known."""
    return _is_ours(thing) or all(
        base is object or _name(base) in EMPTY or vars(base).get("known") for base in thing.__mro__
    )


def _unknown(place: str, target: Any, hint: Any) -> str:
    """The reason why a name is not permitted, with alternatives."""
    wanted = describe(hint)
    if names := list(_others(hint)):
        near = difflib.get_close_matches(str(target), names, n=3, cutoff=0.6)
        return f"is not allowed here; expected {wanted}: {', '.join(near or names)}"
    if not isinstance(target, str) or not TARGET.fullmatch(target):
        return f"is not the name of a class or function; it wants {wanted}"
    module, _, name = target.rpartition(".")
    if target.startswith(TARGET_PACKAGES) or target.partition(".")[0] in packages() - {"oodgen"}:
        known = signatures.public(module, packages())
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
        mend = f"{module} has: {', '.join(near)}" if near else f"it wants {wanted}"
        return f"does not exist, or is not public; {mend}"
    mend = "" if target.startswith("oodgen.") else plugins.refusal(target)
    return f"is not allowed here; expected {wanted}{mend or suggestion(place, hint)}"


def _choices(place: str, hint: Any) -> list[str]:
    """Up to three choices of conf that have the type of a key."""
    folder, found = group(place), []
    for path in sorted((config_dir() / folder).glob("*.yaml")) if folder else ():
        target = re.search(r"^_target_: *(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if target and resolve_target({"_target_": target[1]}, hint) is not None:
            found.append(f"{folder if folder == place else f'{folder}@{place}'}={path.stem}")
    return found[:3]
