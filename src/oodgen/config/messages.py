"""Error messages of commands in one line, with suggestions. Imports no torch."""

import difflib
import re
import shlex
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from oodgen.runs.locations import config_dir

__all__ = ["one_line"]

RESOLVED = re.compile(r"(\w+) raised while resolving interpolation: ")  # before an error inside a resolver
PLACE = re.compile(r"full_key: (.+)")
MISSING = re.compile(r"Missing mandatory value: (\S+)")
LAUNCHER = re.compile(r"Unknown plugin class : 'hydra_plugins\.hydra_(\w+)_launcher\.")
AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.+)'\n")
TWICE = re.compile(r"Multiple values for (\S+)\. To override a value use 'override \S+: (.+)'")
COMPOSING = ("defaults_list", "config_loader_impl")  # Hydra's modules
LISTS = ("Cannot merge DictConfig with ListConfig", "a list does not replace a group of options, nor a group a list")
UNKNOWN = re.compile(r"Could not override '(.+)'\.\nTo append to your config use")


def one_line(error: BaseException) -> str:
    """The message of any exception in one line."""
    said = str(error)
    if isinstance(error, InterpolationResolutionError):
        return _interpolation(said)
    if launcher := LAUNCHER.match(said):
        return f"hydra/launcher={launcher[1]} is not installed; pip install 'oodgen[cluster]'"
    if isinstance(error, OSError) and error.filename:
        return (
            f"cannot write {error.filename}: {error.strerror}; free some space or choose another folder with runs=DIR"
        )
    if isinstance(error, OverrideParseException):
        why = _as_text(error.override) or f": {_without_line_breaks(error)}".split(" See https")[0]
        return f"{error.override} is not of the form key=value{why}"
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"could not find {error.missing_cfg_file!r}{_suggestions(name, error.options, f'; {group} may be: ')}"
    if said.startswith("Config group override must be") and (override := _local(error, "override")):
        group, names = override.key_or_group, (config_dir() / override.key_or_group).glob("*.yaml")
        return f"{override.input_line} is no choice; {group} may be: {', '.join(sorted(path.stem for path in names))}"
    if isinstance(error, ConfigCompositionException) and (unknown := UNKNOWN.match(str(error))):
        return _unknown_option(unknown[1], error.__cause__) or _without_line_breaks(error)
    if ambiguous := AMBIGUOUS.match(said):
        key, _, value = ambiguous[1].partition("=")
        return f"{key}={value} is a sweep, which needs -m; write a list as {key}=[{value}]{_as_text(ambiguous[1])}"
    if twice := TWICE.match(said):
        key, value = twice.groups()
        return (
            f"{key} is already chosen; override it by {key}={value} without +, or in a file by "
            f"`override /{key}: {value}` at the end of its defaults list"
        )
    if isinstance(error, AssertionError | RecursionError) and (parent := _local(error, "parent")):
        wrong = "is cyclic" if isinstance(error, RecursionError) else "has a choice after an override"
        return f"the defaults list of {parent.get_config_path()} {wrong}; put what it builds on first, overrides last"
    merging = said.startswith("Error merging override ")
    override = _local(error, "override") if merging or not isinstance(error, HydraException) else None
    where = f"cannot apply {override.input_line}: " if override else ""
    why = _without_line_breaks(error.__cause__ if merging and error.__cause__ else error).split(" full_key: ")[0]
    return where + (why.replace(*LISTS) or type(error).__name__)


def _without_line_breaks(error: BaseException) -> str:
    """The message in one line, without the search path that Hydra appends."""
    lines = [part.strip() for part in str(error).split("\nConfig search path:")[0].splitlines()]
    return " ".join(filter(None, lines))


def _as_text(override: str | None) -> str:
    """How an override is written in a shell whose value is text that Hydra's grammar does not take bare, as a path.

    Empty where it is no such one.
    """
    key, equals, value = (override or "").partition("=")
    if not equals or not value or value[0] in "[{\"'" or "${" in value:
        return ""
    value = str(Path(value).expanduser()) if value.startswith("~") else value
    # a backslash means itself, but before a quote
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + found[2].replace('"', '\\"'), value)
    for word in (f"{key}={value}", f'{key}="{escaped}"'):
        try:
            if OverridesParser.create().parse_override(word).value() == value:
                return f"; as text write {shlex.quote(word)}"
        except HydraException:
            continue
    return ""


def _local(error: BaseException, name: str) -> Any:
    """A variable of Hydra's composing of the config when the error was raised; None if it was elsewhere."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    found = [frame.f_locals.get(name) for frame in frames if frame.f_globals["__name__"].endswith(COMPOSING)]
    return next((value for value in reversed(found) if value is not None), None)


def _interpolation(said: str) -> str:
    """The message for OmegaConf's error of an interpolation."""
    line = said.splitlines()[0]
    while resolved := RESOLVED.match(line):
        line = line[resolved.end() :]
        if resolved[1] == "UserError":
            return line
    if missing := MISSING.search(line):
        return f"{missing[1]} is not set; give it as {missing[1]}=VALUE"
    place = PLACE.search(said)
    return f"{place[1]}: {line}; correct it" if place else line


def _unknown_option(key: str, cause: BaseException | None) -> str:
    """The message for an unknown option, with suggestions; "" if there is no better one than Hydra's.

    Arguments:
        key: What the command says.
        cause: OmegaConf's error, which holds the config as far as it was composed.
    """
    inside = getattr(cause, "parent_node", None)
    if not isinstance(inside, DictConfig):
        return ""
    # layers[0] as a command says it, layers.0
    where, _, name = re.sub(r"\[(\d+)\]", r".\1", str(cause.full_key)).rpartition(".")  # type: ignore[union-attr]
    composed = OmegaConf.to_container(inside._get_root())
    elsewhere = [path for path in _paths(composed) if path.endswith(f".{name}") and not path.startswith("hydra.")]
    if elsewhere:
        return f"there is no option {key!r}; did you mean {' or '.join(elsewhere)}?"
    known = [str(option) for option in inside if option != "hydra" and not str(option).startswith("_")]
    return f"there is no option {key!r}{_suggestions(name, known, f'; {where} has: ' if where else '; there are: ')}"


def _paths(config: Any, where: str = "") -> Iterator[str]:
    for key, value in config.items() if isinstance(config, dict) else ():
        yield where + str(key)
        yield from _paths(value, f"{where}{key}.")


def _suggestions(name: str, known: Sequence[str], otherwise: str) -> str:
    """Suggestions for a misspelt name, or else all known names."""
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.7)
    return f"; did you mean {' or '.join(near)}?" if near else otherwise + (", ".join(known) or "none")
