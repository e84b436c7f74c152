"""The cost of an experiment: budget, seconds and parameters, as its runs' records state them."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from oodgen.report.tables import Cell, Entry

__all__ = ["HEAD", "Cost", "duration", "entries", "number", "of_records"]

HEAD = ("seeds", "epochs", "steps", "training", "scoring", "parameters")


class Cost(NamedTuple):
    """Means over seeds, nan where a record states nothing.

    Arguments:
        epochs, steps: The training budget.
        train_seconds: Time of the training.
        parameters: Parameters of the model, all members of an ensemble included.
        score_seconds: Score -> time for 1,000 examples, its probes included.
        hardware: Where it ran.
    """

    epochs: float
    steps: float
    train_seconds: float
    parameters: float
    score_seconds: Mapping[str, float]
    hardware: str = ""


def of_records(records: Iterable[Mapping[str, Any]]) -> Cost:
    """The cost of runs that differ in their seed; record.json of old runs states no times of scores."""
    found = list(records)

    def mean(*path: str) -> float:
        values = [number(record, *path) for record in found]
        return statistics.fmean(values) if values else math.nan

    scores = {name for record in found for name in record.get("score_seconds") or {}}
    hardware = dict.fromkeys(str((record.get("provenance") or {}).get("hardware") or "") for record in found)
    return Cost(
        mean("training", "epochs"),
        mean("training", "steps"),
        mean("provenance", "seconds", "train"),
        mean("model", "parameters"),
        {name: mean("score_seconds", name) for name in sorted(scores)},
        " or ".join(filter(None, hardware)),
    )


def number(record: Any, *path: str) -> float:
    """A number of a record, nan if there is none."""
    for key in path:
        record = record.get(key) if isinstance(record, Mapping) else None
    return float(record) if isinstance(record, (int, float)) and abs(record) < 1e300 else math.nan


def entries(cost: Cost, cells: Sequence[Cell]) -> tuple[Entry, ...]:
    """The columns of HEAD for the cells of one score; a dash for what no record states."""
    score, seeds = cells[0].score, [len(cell.seeds) for cell in cells]
    seconds, on = cost.score_seconds.get(score, math.nan), f" on {cost.hardware}" if cost.hardware else ""
    return (
        Entry("–".join(map(str, dict.fromkeys((min(seeds), max(seeds)))))),
        Entry(_or_dash(cost.epochs, f"{cost.epochs:.3g}")),
        Entry(_or_dash(cost.steps, f"{cost.steps:,.0f}")),
        Entry(_or_dash(cost.train_seconds, duration(cost.train_seconds)), hint=f"of one seed{on}"),
        Entry(_or_dash(seconds, duration(seconds)), hint=f"of 1,000 examples{on}"),
        Entry(_or_dash(cost.parameters, f"{cost.parameters:,.0f}")),
    )


def _or_dash(value: float, text: str) -> str:
    return "–" if math.isnan(value) else text


def duration(seconds: float) -> str:
    """Seconds in words: 0.42 s, 58 s, 12 min, 3.1 h."""
    if not seconds < 100:
        return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
