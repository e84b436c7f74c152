"""One table for each inlier set: methods by out sets, with seeds, budget and cost, and what others claim."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from oodgen.report import cost, tables
from oodgen.report.claims import Claim, claimed
from oodgen.report.cost import Cost
from oodgen.report.summary import main_score, statistic
from oodgen.report.tables import Cell, Entry, Line, Table
from oodgen.runs.labels import DEFAULTS

__all__ = ["ABOUT", "Candidate", "boards"]

ABOUT = (
    "AUROC of each experiment by its default score, which is fixed beforehand (the first of "
    f"{', '.join(DEFAULTS[:-1])} and {DEFAULTS[-1]} that it has, else its first one), and by the scores of its paper, "
    "of all papers if it reproduces none; means over seeds. No model: the image statistics alone, by "
    "their density where it was measured (the best of the experiments), and by the one that separates a set best. "
    "Bold: best of the column, leaving out models that were trained against the set (†) and scores chosen on it "
    "(oracle). Training: time of one seed. Scoring: time for 1,000 examples. A dash: not recorded. "
    "Budgets and numbers of images differ. Claimed elsewhere: lowest and highest value that papers print for other "
    "methods without labels on sets of that name, and the number of papers; not run here."
)
AGAINST = " †"
NOTHING = ("",) * len(cost.HEAD)
NO_MODEL = "evidence_image"  # the density of the image statistics alone


class Candidate(NamedTuple):
    """One experiment, or one value of the option that a study sweeps.

    Arguments:
        name: Its title.
        cells: Means over seeds.
        against: Sets that the model was trained against, see `grouping.trained_against`.
        own: Scores of its paper -> their source; one chosen with the out set in hand is marked as such.
        cost: What it cost; None if unknown.
    """

    name: str
    cells: Sequence[Cell]
    against: Sequence[str] = ()
    own: Mapping[str, str] = {}
    cost: Cost | None = None


def boards(candidates: Sequence[Candidate], claims: Sequence[Claim] = ()) -> dict[str, Table]:
    """Inlier set -> its table: the control, lines for the scores of each experiment, and the claims of others."""
    found: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.cells:
            found.setdefault(candidate.cells[0].inlier, []).append(candidate)
    made = {inlier: _board(several, [c for c in claims if c.inlier == inlier]) for inlier, several in found.items()}
    return {inlier: table for inlier, table in made.items() if table.lines}


def _board(candidates: Sequence[Candidate], claims: Sequence[Claim]) -> Table:
    found: list[tuple[str, Candidate, str, dict[str, Cell]]] = []
    controls: dict[str, dict[str, Cell]] = {NO_MODEL: {}, "best statistic": {}}
    for candidate in candidates:
        chosen = main_score(candidate.cells)
        if chosen is None:
            continue
        found.append(("score", candidate, chosen.score, chosen.cells))
        for score in candidate.own:
            if score != chosen.score and score in chosen.honest:
                found.append(("score", candidate, score, chosen.honest[score]))
            elif score in chosen.oracles:
                found.append(("oracle", candidate, score, chosen.oracles[score]))
        for name, cells in ((NO_MODEL, chosen.honest.get(NO_MODEL, {})), ("best statistic", chosen.controls)):
            for out, control in cells.items():
                if out not in controls[name] or control.value > controls[name][out].value:
                    controls[name][out] = control
    found.sort(key=lambda line: (line[0] != "score", _natural(line[1].name)))
    outs = list(dict.fromkeys(out for *_, cells in found for out in cells))
    best = {out: _best(out, found) for out in outs}
    lines = []
    for name, measured in controls.items():
        if measured:
            values = (_control(measured[out]) if out in measured else Entry("") for out in outs)
            hint = tables.describe_score(name)
            lines.append(Line("control", (Entry("no model"), Entry(name, hint=hint), *values, *map(Entry, NOTHING))))
    for kind, candidate, score, cells in found:
        shown = [_entry(cells.get(out), kind, candidate.against, best[out]) for out in outs]
        spent = cost.entries(candidate.cost, list(cells.values())) if candidate.cost else map(Entry, NOTHING)
        hint = ", ".join(filter(None, (tables.describe_score(score), candidate.own.get(score, ""))))
        label = f"{score} (oracle)" if kind == "oracle" else score
        lines.append(Line(kind, (Entry(candidate.name), Entry(label, hint=hint), *shown, *spent)))
    ranges = [claimed([claim for claim in claims if claim.out == out]) for out in outs]
    if any(entry.text for entry in ranges):
        words = (Entry("claimed elsewhere"), Entry("range (papers)"), *ranges)
        lines.append(Line("quoted", (*words, *map(Entry, NOTHING))))
    return Table(("method", "score", *outs, *cost.HEAD), tuple(lines), 2)


def _natural(name: str) -> list[tuple[str, int]]:
    """Sort key with numbers in numerical order: epoch2 before epoch10."""
    return [(words, int(number or -1)) for words, number in re.findall(r"(\D*)(\d*)", name)]


def _best(out: str, found: Sequence[tuple[str, Candidate, str, dict[str, Cell]]]) -> str:
    """The best of a column, as printed, among models that were not trained against the set; "" without a rival."""
    rivals = [
        cells[out].value
        for kind, candidate, _, cells in found
        if kind == "score" and out in cells and out not in candidate.against
    ]
    finite = [value for value in rivals if not math.isnan(value)]
    return tables.format_value("auroc", max(finite)) if len(rivals) > 1 and finite else ""


def _entry(cell: Cell | None, kind: str, against: Sequence[str], best: str) -> Entry:
    if cell is None:
        return Entry("")
    entry = tables.cell_entry(cell)
    if cell.out in against:
        value, *deviation = entry.text.split(" ", 1)
        return entry._replace(text=" ".join([value + AGAINST, *deviation]))
    return entry._replace(best=kind == "score" and tables.format_value("auroc", cell.value) == best)


def _control(cell: Cell) -> Entry:
    return Entry(tables.format_value("auroc", cell.value), "", statistic(cell), value=cell.value)
