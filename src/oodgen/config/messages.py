"""What is wrong with a command, as one line that names the thing and what was probably meant. Imports no torch."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError

from oodgen.runs.locations import config_dir

__all__ = ["line"]

RESOLVED = "UserError raised while resolving interpolation: "  # what OmegaConf puts before an error of our resolvers
UNKNOWN = re.compile(r"Could not override '(.+)'\.\nTo append to your config use")


def line(error: BaseException, arguments: Sequence[str] = ()) -> str:
    """An error as one line.

    Arguments:
        error: Whatever stopped a command.
        arguments: The command's, to look for what resembles a word that was not found.
    """
    if (said := str(error)).startswith(RESOLVED):
        return said.removeprefix(RESOLVED).splitlines()[0]
    if isinstance(error, OSError) and error.filename:
        return (
            f"cannot write {error.filename}: {error.strerror}; free some space or choose another folder with runs=DIR"
        )
    if isinstance(error, OverrideParseException):
        return f"{error.override} is not of the form key=value: {_joined(error)}".split(" See https")[0]
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"could not find {error.missing_cfg_file!r}{_near(name, error.options, f'; {group} may be: ')}"
    if isinstance(error, ConfigCompositionException) and (unknown := UNKNOWN.match(str(error))):
        return _unknown(unknown[1], arguments) or _joined(error)
    if isinstance(error, InterpolationToMissingValueError):
        missing = str(error).split("Missing mandatory value: ")[-1].split()[0]
        return f"{missing} is not set; give it as {missing}=VALUE"
    return _joined(error) or type(error).__name__


def _joined(error: BaseException) -> str:
    """Hydra spreads what it says over several lines."""
    lines = [part.strip() for part in str(error).split("\nConfig search path:")[0].splitlines()]
    return " ".join(filter(None, lines))


def _unknown(key: str, arguments: Sequence[str]) -> str:
    """An option that is not in the config; Hydra would have it appended, which is seldom what was meant."""
    others = [word for word in arguments if "=" in word and not word.startswith("-") and word.partition("=")[0] != key]
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = compose("run", others)
    except Exception:  # a grid, or a second mistake: Hydra's own words must do
        return ""
    where, _, name = key.rpartition(".")
    inside = OmegaConf.select(config, where) if where else config
    if not isinstance(inside, DictConfig):
        return ""
    elsewhere = [path for path in _paths(OmegaConf.to_container(config)) if path.endswith(f".{name}")]
    if elsewhere:
        return f"there is no option {key!r}; did you mean {' or '.join(elsewhere)}?"
    known = [str(option) for option in inside if not str(option).startswith("_")]
    return f"there is no option {key!r}{_near(name, known, f'; {where} has: ' if where else '; there are: ')}"


def _paths(config: Any, where: str = "") -> Iterator[str]:
    for key, value in config.items() if isinstance(config, dict) else ():
        yield where + str(key)
        yield from _paths(value, f"{where}{key}.")


def _near(name: str, known: Sequence[str], otherwise: str) -> str:
    """What resembles a word; where nothing does, all that there is."""
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.7)
    return f"; did you mean {' or '.join(near)}?" if near else otherwise + ", ".join(known)
