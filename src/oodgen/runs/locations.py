"""Locations of the shipped configs and of a run's training, and removal of directories from text."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["config_dir", "training_folder", "without_directories"]

# an absolute path at the beginning of a word or of an option's value, unlike the slashes in data/out=x or 1/2
ABSOLUTE = re.compile(r"(?:(?<=[\s=,:;\[{(\"'])|^)(?:~|file:/+)?/(?:[^\s/,;\"'\])}]+/)*([^\s/,;\"'\])}]+)/?")


def config_dir() -> Path:
    """The folder of run.yaml: `conf` at the root of a checkout, or inside the package of an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "conf", package.parents[1] / "conf")
    return next((folder for folder in candidates if (folder / "run.yaml").exists()), candidates[0])


def training_folder(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """The training's folder of an evaluation, also if the runs folder was moved; None if it is missing.

    Arguments:
        folder: The evaluation's folder.
        record: Its record.json.
    """
    fingerprint, name = record.get("fingerprint"), record.get("train_dir")
    places = [parent / "train" / str(fingerprint) for parent in folder.resolve().parents] if fingerprint else []
    places += [Path(str(name))] if name else []
    return next((place for place in places if place.is_dir()), None)


def without_directories(value: Any) -> Any:
    """Text, or all text in lists and mappings, with absolute paths replaced by their last component."""
    if isinstance(value, str):
        return ABSOLUTE.sub(r"\1", value)
    if isinstance(value, Mapping):
        return {key: without_directories(item) for key, item in value.items()}
    return [without_directories(item) for item in value] if isinstance(value, list) else value
