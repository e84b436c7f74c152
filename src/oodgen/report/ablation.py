"""What an option does: one table and one figure over its values, instead of as many tables."""

import math
import re
from collections.abc import Mapping, Sequence

from oodgen.report.tables import Cell, Entry, Line, Table, entry, gloss, main_protocol, natural, rank

__all__ = ["Cells", "curves", "geometric", "sentences", "table"]

# What a study is about; what else was scored stands in summary.csv and on the pages of the runs.
FOLLOWED = re.compile(r"(l>0|kl|llr>\d+|llr_ada|llr_rule)( mode)?")

Cells = Mapping[str, Sequence[Cell]]


def _aurocs(cells: Cells) -> dict[str, dict[str, dict[str, Cell]]]:
    """Out set -> score -> value of the key -> cell, of the scores that are followed (all, where none of them is)."""
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
    for setting, cell in sorted(followed, key=lambda pair: rank(pair[1].score)):
        found.setdefault(cell.out, {}).setdefault(cell.score, {})[setting] = cell
    order = list(dict.fromkeys(cell.out for _, cell in chosen))
    return {out: found[out] for out in order if out in found}


def table(cells: Cells, key: str) -> Table:
    """AUROC of each score at each value of the key, a block of lines for each out set.

    No value is marked best: to choose it by these numbers would be to choose it on OOD data.

    Arguments:
        cells: Value of the key -> cells.
        key: The option's name.
    """
    aurocs = _aurocs(cells)
    scores = sorted({score for found in aurocs.values() for score in found}, key=rank)
    everybody = {cell.seeds for found in aurocs.values() for row in found.values() for cell in row.values()}
    lines = []
    for out, found in aurocs.items():
        for setting in sorted({s for row in found.values() for s in row}, key=natural):
            row = {score: found[score][setting] for score in found if setting in found[score]}
            words = [Entry(out), Entry(setting)] if len(aurocs) > 1 else [Entry(setting)]
            if len(everybody) > 1:
                words.append(Entry(", ".join(map(str, next(iter(row.values())).seeds))))
            values = [entry(row[score])._replace(small="") if score in row else Entry("") for score in scores]
            lines.append(Line("score", (*words, *values)))
    head = (*(("out",) if len(aurocs) > 1 else ()), key, *(("seeds",) if len(everybody) > 1 else ()))
    return Table((*head, *scores), tuple(lines), labels=len(head))


def curves(cells: Cells) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    """Out set -> score -> (value of the key, AUROC, its sd or nan); empty where the values are no numbers."""
    drawn: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    if len({prefix for words, prefix, *_ in map(natural, cells) if not words}) > 1:
        return {}  # epoch3 and step400 share no axis
    for out, found in _aurocs(cells).items():
        for score, row in found.items():
            points = sorted((natural(s)[2], cell.value, cell.sd) for s, cell in row.items())
            points = [point for point in points if not math.isinf(point[0]) and not math.isnan(point[1])]
            if len(points) > 1:
                drawn.setdefault(out, {})[score] = points
    return drawn


def geometric(values: Sequence[float]) -> bool:
    """Whether numbers are powers of 2 or of 10, three at least, so that they are read on a logarithmic axis."""
    if len(values) < 3 or min(values) <= 0:
        return False
    return any(all(abs(log(v) - round(log(v))) < 1e-9 for v in values) for log in (math.log2, math.log10))


def sentences(cells: Cells, key: str) -> list[str]:
    """What changed from the first value of the key to the last, for plain likelihood and the score fixed beforehand."""
    aurocs = _aurocs(cells)
    if not aurocs:
        return ["No AUROC was measured."]
    out, found = next(iter(aurocs.items()))
    first, last = (end({s for row in found.values() for s in row}, key=natural) for end in (min, max))
    named = next((s for s in ("llr_ada", "llr_rule") if s in found), "")
    shown = [score for score in dict.fromkeys(("l>0", named)) if score in found] or list(found)[:1]
    moved = [
        f"{gloss(score) or score} ({score}) goes from {found[score][first].value:.3f} to {found[score][last].value:.3f}"
        for score in shown
        if first in found[score] and last in found[score]
    ]
    return [f"On {out}, from {key}={first} to {last}: {', '.join(moved)}."] if moved else []
