"""Where the program's configs and the folders of a run lie, and how to print a path without naming the machine."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["bare", "config_dir", "training"]

# an absolute path begins a word or an option's value; a slash inside a word, as in data/out=x or 1/2, begins none
ABSOLUTE = re.compile(r"(?:(?<=[\s=,:;\[{(\"'])|^)(?:~|file:/+)?/(?:[^\s/,;\"'\])}]+/)*([^\s/,;\"'\])}]+)/?")


def config_dir() -> Path:
    """The folder of run.yaml: `conf` at the root of a checkout, or inside the package of an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "conf", package.parents[1] / "conf")
    return next((folder for folder in candidates if (folder / "run.yaml").exists()), candidates[0])


def training(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """The training's folder of an evaluation, also where the runs folder was moved to; None if it is not there.

    Arguments:
        folder: The evaluation's folder.
        record: Its record.json.
    """
    fingerprint, name = record.get("fingerprint"), record.get("train_dir")
    places = [parent / "train" / str(fingerprint) for parent in folder.resolve().parents] if fingerprint else []
    places += [Path(str(name))] if name else []
    return next((place for place in places if place.is_dir()), None)


def bare(value: Any) -> Any:
    """Text, or all text inside of lists and mappings, with absolute paths cut to their last name."""
    if isinstance(value, str):
        return ABSOLUTE.sub(r"\1", value)
    if isinstance(value, Mapping):
        return {key: bare(item) for key, item in value.items()}
    return [bare(item) for item in value] if isinstance(value, list) else value
