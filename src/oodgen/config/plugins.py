"""Plug-ins: packages whose classes and `conf/` a command may use, if its user admits them. Imports no torch.

They are admitted by `plugins=[PACKAGE]` of `oodgen run`, `--plugins PACKAGE` of `oodgen score`, the environment
variable OODGEN_PLUGINS (comma-separated), or an installed entry point of the group `oodgen.plugins`; never by a config
file.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from oodgen.errors import UserError
from oodgen.runs.locations import config_dir

__all__ = ["VARIABLE", "admit", "admitted", "folders", "refusal", "versions"]

GROUP = "oodgen.plugins"
VARIABLE = "OODGEN_PLUGINS"  # also set by `admit`, for the workers of a sweep


def admitted() -> tuple[str, ...]:
    """The top-level packages that this process may use in addition to oodgen.

    Raises:
        UserError: one of them is not an importable package, or has no folder `conf`.
    """
    return tuple(folders())


def admit(names: Iterable[str]) -> None:
    """Admit further packages in this process and its children.

    Raises:
        UserError: see `admitted`.
    """
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*_of_environment(), *names]))
    folders()


def folders() -> dict[str, Path]:
    """The `conf` folder of every admitted package.

    Raises:
        UserError: see `admitted`.
    """
    return {name: _conf(name) for name in dict.fromkeys([*_of_environment(), *_installed()])}


def refusal(target: str) -> str:
    """How to admit the package of a target, for the sentence that refuses it; empty for one that can be no plug-in."""
    name = target.partition(".")[0]
    if (home := _package(name)) is not None and _conf_folder(home) is None:
        return ""
    return (
        f"; the package {name} is not enabled; if you trust it, use plugins=[{name}] (run), --plugins {name} "
        f"(score) or {VARIABLE}={name}"
    )


def versions(config: Any) -> dict[str, str]:
    """The versions of the admitted packages that are used by targets of a resolved config."""
    used = {target.partition(".")[0] for target in _targets(config)}
    return {name: _version(name) for name in admitted() if name in used}


def _of_environment() -> list[str]:
    return [name for part in os.environ.get(VARIABLE, "").split(",") if (name := part.strip())]


@cache
def _installed() -> tuple[str, ...]:
    return tuple(sorted({point.value.partition(":")[0] for point in metadata.entry_points(group=GROUP)}))


def _package(name: str) -> list[Path] | None:
    """The folders of a top-level package, found without importing it; none of a module, None if it is not found."""
    try:
        spec = find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    return None if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]


def _conf_folder(home: Iterable[Path]) -> Path | None:
    return next((place / "conf" for place in home if (place / "conf").is_dir()), None)


@cache
def _conf(name: str) -> Path:
    """The package's own `conf`."""
    if (home := _package(name)) is None:
        raise UserError(
            f"the plug-in {name!r} is not an importable package; give a top-level package that is installed or on "
            "PYTHONPATH"
        )
    folder = _conf_folder(home)
    if folder is None:
        raise UserError(f"the plug-in {name!r} has no folder conf; see CONTRIBUTING.md")
    ours = config_dir()
    for path in sorted(folder.rglob("*.yaml")):
        if (ours / path.relative_to(folder)).exists():
            raise UserError(f"{path} of the plug-in {name!r} has the name of a file of oodgen; rename it")
    return folder


def _targets(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield str(config["_target_"])
        config = list(config.values())
    for value in config if isinstance(config, list) else ():
        yield from _targets(value)


def _version(name: str) -> str:
    """The version of the package's distribution, or its `__version__`."""
    for distribution in (name, *metadata.packages_distributions().get(name, ())):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return str(getattr(sys.modules.get(name), "__version__", "not installed"))
