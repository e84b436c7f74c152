"""Ablation studies: a table and a figure of AUROC over the values of one option."""

import math
import re
from collections.abc import Mapping, Sequence

from oodgen.report.tables import (
    Cell,
    Entry,
    Line,
    Table,
    cell_entry,
    describe_score,
    main_protocol,
    natural_order,
    score_order,
)
from oodgen.runs.labels import default_score

__all__ = ["Cells", "curves", "describe_change", "is_geometric", "table"]

# Scores in the tables of ablation studies; the others are in summary.csv and on the pages of the runs.
FOLLOWED = re.compile(r"(evidence|evidence_image|l>0|kl|llr>\d+|llr_ada|llr_rule)( mode)?")

Cells = Mapping[str, Sequence[Cell]]


def _aurocs(cells: Cells) -> dict[str, dict[str, dict[str, Cell]]]:
    """Out set -> score -> value of the key -> cell, of the scores that match FOLLOWED, or else of all."""
    protocol = main_protocol([cell for several in cells.values() for cell in several])
    chosen = [
        (setting, cell)
        for setting, several in cells.items()
        for cell in several
        if (cell.metric, cell.protocol) == ("auroc", protocol)
        and cell.out != cell.inlier
        and not cell.score.startswith("control:")
    ]
    followed = [pair for pair in chosen if FOLLOWED.fullmatch(pair[1].score)] or chosen
    found: dict[str, dict[str, dict[str, Cell]]] = {}
    for setting, cell in sorted(followed, key=lambda pair: score_order(pair[1].score)):
        found.setdefault(cell.out, {}).setdefault(cell.score, {})[setting] = cell
    order = list(dict.fromkeys(cell.out for _, cell in chosen))
    return {out: found[out] for out in order if out in found}


def table(cells: Cells, key: str) -> Table:
    """AUROC of each score at each value of the key, a block of lines for each out set.

    No value is marked as best, since that would be a choice on OOD data.

    Arguments:
        cells: Value of the key -> cells.
        key: The option's name.
    """
    aurocs = _aurocs(cells)
    scores = sorted({score for found in aurocs.values() for score in found}, key=score_order)
    seed_sets = {cell.seeds for found in aurocs.values() for row in found.values() for cell in row.values()}
    lines = []
    for out, found in aurocs.items():
        for setting in sorted({s for row in found.values() for s in row}, key=natural_order):
            row = {score: found[score][setting] for score in found if setting in found[score]}
            words = [Entry(out), Entry(setting)] if len(aurocs) > 1 else [Entry(setting)]
            if len(seed_sets) > 1:
                words.append(Entry(", ".join(map(str, next(iter(row.values())).seeds))))
            values = [cell_entry(row[score])._replace(small="") if score in row else Entry("") for score in scores]
            lines.append(Line("score", (*words, *values)))
    head = (*(("out",) if len(aurocs) > 1 else ()), key, *(("seeds",) if len(seed_sets) > 1 else ()))
    return Table((*head, *scores), tuple(lines), labels=len(head))


def curves(cells: Cells) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    """Out set -> score -> [(value of the key, AUROC, its sd or nan)]; empty if the values are not numbers."""
    drawn: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    if len({prefix for words, prefix, *_ in map(natural_order, cells) if not words}) > 1:
        return {}  # e.g. epoch3 and step400
    for out, found in _aurocs(cells).items():
        for score, row in found.items():
            points = sorted((natural_order(s)[2], cell.value, cell.sd) for s, cell in row.items())
            points = [point for point in points if not math.isinf(point[0]) and not math.isnan(point[1])]
            if len(points) > 1:
                drawn.setdefault(out, {})[score] = points
    return drawn


def is_geometric(values: Sequence[float]) -> bool:
    """Whether there are at least three values, all powers of 2 or of 10, for which a logarithmic axis is used."""
    if len(values) < 3 or min(values) <= 0:
        return False
    return any(all(abs(log(v) - round(log(v))) < 1e-9 for v in values) for log in (math.log2, math.log10))


def describe_change(cells: Cells, key: str) -> list[str]:
    """A sentence on the change from the first to the last value of the key, for l>0 and the default score."""
    aurocs = _aurocs(cells)
    if not aurocs:
        return ["No AUROC was measured."]
    out, found = next(iter(aurocs.items()))
    first, last = (end({s for row in found.values() for s in row}, key=natural_order) for end in (min, max))
    shown = [score for score in dict.fromkeys(("l>0", default_score(found))) if score in found]
    moved = [
        f"{describe_score(score) or score} ({score}) goes from {row[first].value:.3f} to {row[last].value:.3f}"
        for score in shown
        if first in (row := found[score]) and last in row
    ]
    return [f"On {out}, from {key}={first} to {last}: {', '.join(moved)}."] if moved else []
