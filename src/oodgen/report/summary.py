"""Automatic summary of an experiment's results, in sentences."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from oodgen.report import tables
from oodgen.report.tables import Cell
from oodgen.runs.labels import default_score

__all__ = ["MainScore", "main_score", "statistic", "verdict"]

APART = 0.05  # standard deviation over seeds above which a sentence mentions it


class MainScore(NamedTuple):
    """The default score of an experiment, with all AUROCs.

    Arguments:
        score: Its name, see `runs.labels.default_score`.
        cells: Out set -> its AUROC.
        honest: Score -> out set -> AUROC, of all scores except controls.
        oracles: The same of scores that were chosen with the out set in hand.
        controls: Out set -> separation of the best control.
    """

    score: str
    cells: dict[str, Cell]
    honest: dict[str, dict[str, Cell]]
    oracles: dict[str, dict[str, Cell]]
    controls: dict[str, Cell]


def main_score(cells: Sequence[Cell]) -> MainScore | None:
    """The default score; None if no AUROC was measured.

    Arguments:
        cells: Means over seeds.
    """
    protocol = tables.main_protocol(cells)
    honest: dict[str, dict[str, Cell]] = {}
    oracles: dict[str, dict[str, Cell]] = {}
    controls: dict[str, Cell] = {}
    for cell in (c for c in cells if c.out != c.inlier and not math.isnan(c.value)):
        if (cell.protocol, cell.metric) == ("oracle", "auroc"):
            oracles.setdefault(cell.score, {})[cell.out] = cell
        elif cell.protocol != protocol:
            continue
        elif not cell.score.startswith("control:") and cell.metric == "auroc":
            honest.setdefault(cell.score, {})[cell.out] = cell
        elif cell.metric == "separation" and cell.value > (controls[cell.out].value if cell.out in controls else 0):
            controls[cell.out] = cell
    if not honest:
        return None
    name = default_score(honest)
    return MainScore(name, honest[name], honest, oracles, controls)


def verdict(cells: Sequence[Cell], against: Sequence[str] = ()) -> list[str]:
    """Sentences on the default score, plain likelihood, disagreement of seeds, and controls that separate the sets.

    Arguments:
        cells: Means over seeds.
        against: Sets that the model was trained against, see `grouping.trained_against`.
    """
    chosen = main_score(cells)
    if chosen is None:
        return ["No AUROC was measured."]
    name, ours, honest, _, controls = chosen
    plain, inlier = honest.get("l>0", {}), cells[0].inlier
    rest = [score for score in honest if score != name]
    best = max(rest, key=lambda s: _mean(honest[s].values()), default="")
    sentences = [_own(name, ours, inlier, against) if against else _headline(plain, name, ours, inlier)]
    if name == "l>0" and rest:
        others = f"best of the {len(rest)} other scores, known only afterwards" if len(rest) > 1 else "other score"
        sentences.append(f"The {others}, {best}, has AUROC {_span(honest[best].values())}.")
    if seen := [out for out in ours if out in against]:
        sentences.append(f"In training, and so no unknown {'sets' if len(seen) > 1 else 'set'}: {_and(seen)}.")
    weak = [f"{c.out} ({_number(c)})" for c in sorted(ours.values(), key=lambda c: c.value) if c.value < 0.7]
    if weak:
        sentences.append(f"{name} stays below 0.7 on {_and(weak)}.")
    shown = [cell for score in dict.fromkeys(("l>0", name)) for cell in honest.get(score, {}).values()]
    if apart := [f"{cell.score} on {cell.out} (sd {cell.sd:.3f})" for cell in shown if cell.sd > APART]:
        sentences.append(f"The seeds disagree: {_and(apart)}.")
    trivial = [controls[out] for out in ours if out in controls and controls[out].value >= 0.95]
    if trivial:
        words = _and([f"{c.out} ({statistic(c)}, {c.value:.3f})" for c in trivial])
        tail = "this pair proves" if len(trivial) == 1 else "these pairs prove"
        sentences.append(
            f"One statistic of the image alone, without any model, separates {words}: {tail} nothing about semantics."
        )
    return sentences


def statistic(control: Cell) -> str:
    """A description of the statistic of a control."""
    return tables.describe_score(control.score) or control.score.removeprefix("control:")


def _own(name: str, ours: Mapping[str, Cell], inlier: str, against: Sequence[str]) -> str:
    """The first sentence for a model that was trained against other sets."""
    unknown = {out: cell for out, cell in ours.items() if out not in against}
    first = next(iter(unknown or ours))
    rest = f"; over all unknown sets {_span(unknown.values())}" if len(unknown) > 1 else ""
    return (
        f"With {_and(list(dict.fromkeys(against)))} for contrast, {name}, the score fixed beforehand, has AUROC "
        f"{_number(ours[first])} on {first} against {inlier}{rest}."
    )


def _headline(plain: Mapping[str, Cell], name: str, ours: Mapping[str, Cell], inlier: str) -> str:
    if not plain:
        lowest = min(ours.values(), key=lambda cell: cell.value)
        return f"{name} separates {inlier} from the out sets with AUROC {_span(ours.values())}; lowest on {lowest.out}."
    # the first out set is the main one of an experiment
    first = next(iter(plain.values()))
    failing = first if first.value < 0.4 else min(plain.values(), key=lambda cell: cell.value)
    out, value, reached = failing.out, failing.value, None if name == "l>0" else ours.get(failing.out)
    ending = "" if reached is None else f"; {name} reaches {_number(reached)}"
    ending += " and does not repair it" if reached is not None and reached.value < 0.7 else ""
    if value < 0.4:
        return (
            f"On {out} plain likelihood fails (AUROC {_number(failing)}): "
            f"it ranks them as more likely than the test set of {inlier}{ending}."
        )
    if value < 0.6:
        return f"On {out} plain likelihood does no better than guessing (AUROC {_number(failing)}){ending}."
    ending = "" if name == "l>0" else f"; {name} has {_span(ours.values())}"
    return f"Plain likelihood ranks every out set as less likely than {inlier}: AUROC {_span(plain.values())}{ending}."


def _mean(cells: Iterable[Cell]) -> float:
    return statistics.fmean(cell.value for cell in cells)


def _number(cell: Cell) -> str:
    """An AUROC as in tables: mean ± sd over several seeds."""
    return tables.cell_entry(cell).text


def _span(cells: Iterable[Cell]) -> str:
    low, *between = sorted(cells, key=lambda cell: cell.value)
    return f"{_number(low)} to {_number(between[-1])}" if between else _number(low)


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
