"""Comparison of experiments: the AUROC of the main score of each (see `summary.main_score`) on every out set."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from oodgen.report import tables
from oodgen.report.summary import main_score, statistic
from oodgen.report.tables import Cell, Entry, Line, Table
from oodgen.runs.labels import DEFAULTS

__all__ = ["ABOUT", "Candidate", "leaderboards"]

ABOUT = (
    f"AUROC of the score that is fixed beforehand: the first of {', '.join(DEFAULTS[:-1])} and {DEFAULTS[-1]} that "
    "an experiment has, else its first one. † The model was trained against that set, which is no unknown one to it. "
    "The best control is the one statistic of the image alone, without any model, that separates a set best. How many "
    "images were scored, each "
    "experiment's own table says; budgets differ too."
)
AGAINST = " †"


class Candidate(NamedTuple):
    """One experiment, or one value of the option that a study sweeps.

    Arguments:
        experiment: Title of the experiment.
        setting: The option and its value in a study, else "".
        cells: Means over seeds.
        against: Sets that the model was trained against, see `grouping.trained_against`.
    """

    experiment: str
    setting: str
    cells: Sequence[Cell]
    against: Sequence[str]


def leaderboards(candidates: Sequence[Candidate]) -> dict[str, Table]:
    """Inlier set -> table with a line for each experiment trained on it, for sets with several experiments."""
    found: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.cells:
            found.setdefault(candidate.cells[0].inlier, []).append(candidate)
    # the values of a single study have their own table
    return {inlier: _grid(several) for inlier, several in found.items() if len({c.experiment for c in several}) > 1}


def _grid(candidates: Sequence[Candidate]) -> Table:
    lines: dict[str, list[tuple[Entry, Entry, dict[str, Entry]]]] = {"score": [], "oracle": []}
    controls: dict[str, Cell] = {}
    outs: dict[str, None] = {}
    for experiment, setting, cells, against in candidates:
        chosen = main_score(cells)
        if chosen is None:
            continue
        shown = {out: tables.cell_entry(cell) for out, cell in chosen.cells.items()}
        for out in shown.keys() & set(against):
            value, *deviation = shown[out].text.split(" ", 1)
            shown[out] = shown[out]._replace(text=" ".join([value + AGAINST, *deviation]))
        outs |= dict.fromkeys(shown)
        kind, words = "score", chosen.score
        name = Entry(f"{experiment}, {setting}" if setting else experiment)
        lines[kind].append((name, Entry(words, tables.describe_score(chosen.score)), shown))
        for out, control in chosen.controls.items():
            if out not in controls or control.value > controls[out].value:
                controls[out] = control
    for out in outs:
        _mark([shown for _, _, shown in lines["score"]], out)
    table = [
        Line(kind, (name, score, *(shown.get(out, Entry("")) for out in outs)))
        for kind, several in lines.items()
        for name, score, shown in sorted(several, key=lambda line: _natural(line[0].text))
    ]
    if controls:
        best = [_control(controls[out]) if out in controls else Entry("") for out in outs]
        table.append(Line("control", (Entry("best control"), Entry(""), *best)))
    return Table(("experiment", "score", *outs), tuple(table), 2)


def _natural(name: str) -> list[tuple[str, int]]:
    """Sort key with numbers in numerical order: epoch2 before epoch10."""
    return [(words, int(number or -1)) for words, number in re.findall(r"(\D*)(\d*)", name)]


def _mark(lines: Sequence[dict[str, Entry]], out: str) -> None:
    """Mark the best of a column among the models that were not trained against the set."""
    unknown = [shown for shown in lines if out in shown and AGAINST not in shown[out].text]
    if len(unknown) > 1:
        best = max((shown[out].value for shown in unknown), key=lambda v: -math.inf if math.isnan(v) else v)
        for shown in unknown:
            if tables.format_value("auroc", shown[out].value) == tables.format_value("auroc", best):
                shown[out] = shown[out]._replace(best=True)


def _control(cell: Cell) -> Entry:
    return Entry(tables.format_value("auroc", cell.value), "", statistic(cell), value=cell.value)
