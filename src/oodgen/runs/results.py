"""results.csv: the numbers of one run, a row each."""

import csv
import io
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from oodgen.errors import UserError
from oodgen.runs.documents import read_text
from oodgen.runs.files import write_text

__all__ = ["Row", "read", "write"]

SIZE, LONGEST = 2**26, 1000  # bytes of a file, characters of a name; runs' files have up to a thousandth and a tenth


class Row(NamedTuple):
    """One number of one run, a row of results.csv; `low` and `high` (bootstrap) are nan without an interval."""

    experiment: str
    fingerprint: str
    seed: int
    inlier: str
    out: str
    score: str
    metric: str
    value: float
    low: float
    high: float
    protocol: str
    n_in: int
    n_out: int


def _float(text: str) -> float:
    return float(text) if text.strip() else math.nan


def _name(text: str) -> str:
    if len(text) > LONGEST:
        raise ValueError(f"it holds a name of {len(text):,} characters")
    return text


def read(path: Path) -> list[Row]:
    """The rows of one results.csv.

    Raises:
        UserError: the file is missing or too large, lacks a column or contains something that is not a number.
    """
    kinds: dict[str, Callable[[str], object]] = {
        "seed": int,
        "value": float,
        "low": _float,
        "high": _float,
        "n_in": int,
        "n_out": int,
    }
    try:
        table = csv.DictReader(io.StringIO(read_text(path, SIZE), newline=""))
        missing = [name for name in Row._fields if name not in (table.fieldnames or ())]
        if missing:
            raise UserError(f"{path} has no column {', '.join(missing)}; evaluate this run again")
        return [Row._make(kinds.get(name, _name)(line[name]) for name in Row._fields) for line in table]
    except (OSError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}; evaluate this run again") from error


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write results.csv atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    for row in rows:
        numbers = (f"{x:.6g}" if isinstance(x, float) and not math.isnan(x) else x for x in row)
        writer.writerow("" if x != x else x for x in numbers)
    write_text(path, text.getvalue())
