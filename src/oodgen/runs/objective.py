"""The objective of Hydra's sweepers, read from the files of a run. Imports no torch."""

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from oodgen.errors import UserError
from oodgen.runs import locations, record, results
from oodgen.runs.labels import key_and_label, label

__all__ = ["NO_BOUND", "STATED", "choose", "is_set", "value"]

PARTS = {"score": "score", "set": "out", "metric": "metric"}  # key of the option -> column of results.csv
STATED = ("val/bound", "val/log_py")  # validation metrics in nats, larger = better
NO_BOUND = (
    "the training has no validation bound for the sweeper; set objective.score, objective.set and objective.metric"
)


def is_set(objective: Mapping[str, Any]) -> bool:
    """Whether the option selects a number of results.csv, and not the default."""
    return any(part is not None for part in objective.values())


def value(folder: Path, objective: Mapping[str, Any], checkpoint: str) -> float:
    """The number that `objective` selects; by default minus the validation bound of the training.

    Arguments:
        folder: A finished evaluation.
        objective: The option: score, set and metric of one number of results.csv, each or None.
        checkpoint: The option: for `best` the best validation bound is taken, else the last one.

    Raises:
        UserError: there is no such number, or there are several.
    """
    if is_set(objective):
        return choose(results.read(folder / "results.csv"), objective)
    train = locations.training_folder(folder, record.read_json(folder / "record.json"))
    path = None if train is None else train / "metrics.csv"
    if path is not None and path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for name in STATED:
            if bounds := [bound for row in rows if math.isfinite(bound := float(row.get(name) or "nan"))]:
                return -(max(bounds) if checkpoint == "best" else bounds[-1])
    raise UserError(NO_BOUND)


def choose(rows: Iterable[results.Row], objective: Mapping[str, Any]) -> float:
    """The number that score, set and metric select, with protocol "full" if there is one.

    Raises:
        UserError: one of them is not found, or is not given and ambiguous.
    """
    found = list(rows)
    for part, column in PARTS.items():
        if (given := objective[part]) is not None:
            wanted = label(str(given)) if part == "score" else given
            there = list(dict.fromkeys(getattr(row, column) for row in found))
            found = [row for row in found if getattr(row, column) == wanted]
            if not found:
                raise UserError(f"objective.{part}={given} is not in the results; available: {_listed(part, there)}")
    for part, column in PARTS.items():
        there = list(dict.fromkeys(getattr(row, column) for row in found))
        if len(there) > 1:
            raise UserError(f"objective.{part} is not set; choose one of: {_listed(part, there)}")
    return min(found, key=lambda row: ("full", "oracle", "balanced").index(row.protocol)).value


def _listed(part: str, there: Iterable[str]) -> str:
    return ", ".join(map(key_and_label, there) if part == "score" else there)
