r"""The complete tables of papers with our numbers: a line for every inlier, out set, method and score printed.

Runs match printed numbers by the rules of `report.paper_numbers`, if their config names that paper or none. Our numbers
are those of the balanced protocol where measured. An average precision with as many positives as negatives is at least
$1 - \ln 2$ for any ranking; in a table with smaller values ours with the inliers as positives, over whole sets, is
added, and over balanced sets in a table that does not state which class is positive.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from oodgen.report.cost import number
from oodgen.report.grouping import Experiment, Run, describe_samples, warnings
from oodgen.report.overrides import requested_overrides
from oodgen.report.paper_numbers import PrintedNumber, PrintedTable, as_entry, join_entries
from oodgen.report.tables import Cell, Entry, Line, Table, aggregate, cell_entry, describe_score, heading, natural_order

__all__ = ["Comparison", "OurResult", "comparison", "our_results"]

FLOOR = 1 - math.log(2)


class OurResult(NamedTuple):
    """The results of one experiment in one setting.

    Arguments:
        label: The overrides of its commands or, if unknown, what distinguishes it from others of the experiment.
        paper: The paper that it reproduces; "" for none.
        cells: Means over the finished seeds.
        seeds: Number of finished seeds.
        diverged: Number of diverged seeds.
        epochs: The training budget, as text.
        images: The preprocessing of images, as text; "" for none.
        sampling: The number of samples of its bounds, as text.
        warnings: Warnings of its records.
    """

    name: str
    label: str
    paper: str
    method: str
    inlier: str
    cells: list[Cell]
    seeds: int
    diverged: int
    epochs: str
    images: str = ""
    sampling: str = ""
    warnings: Sequence[str] = ()


class Comparison(NamedTuple):
    """A printed table with our numbers: name, caption, text before the table, the table, and notes after it."""

    name: str
    caption: str
    before: str
    table: Table
    after: list[str]


class _Key(NamedTuple):
    """Identifies a line; `score` is "" for means over a set, which share a line."""

    quoted: bool
    method: str
    inlier: str
    out: str
    score: str


def our_results(found: Sequence[Experiment]) -> list[OurResult]:
    """The results of all experiments and settings, except smoke runs.

    Arguments:
        found: Experiments, including diverged runs, which have no rows.
    """
    made: list[tuple[OurResult, str]] = []
    for group in found:
        for setting, runs in group.runs.items():
            if any(run.config.get("smoke") == "True" for run in runs):
                continue
            first, finished = runs[0], [run for run in runs if run.rows]
            known, apart = (
                requested_overrides(run.record for run in finished),
                f"{group.key}={setting}" if group.key else group.label,
            )
            label = apart if known is None else ", ".join(known)
            limit = first.config.get("data.limit", "None")
            if limit != "None" and "data.limit" not in label:
                label = ", ".join(filter(None, (label, f"data.limit={limit}")))
            facts = (first.record.get("paper") or "", first.record["method"] or "", first.inlier)
            cells = aggregate(row for run in finished for row in run.rows)
            counts = (len(finished), len(runs) - len(finished))
            words = (_epochs(finished), _images(first.config), describe_samples(first.config))
            identity = (first.record["experiment"], label, *facts)
            made.append((OurResult(*identity, cells, *counts, *words, warnings(finished)), apart))
    often = Counter(_line(result) for result, _ in made)
    # lines that are equal so far differ in other options, e.g. of two versions of an experiment
    return [
        result._replace(label=", ".join(filter(None, (result.label, apart))))
        if often[_line(result)] > 1 and apart not in result.label
        else result
        for result, apart in made
    ]


def _line(result: OurResult) -> tuple[str, ...]:
    """The text by which a line identifies a setting."""
    return result.name, result.method, result.inlier, result.label, result.epochs


def _images(config: Mapping[str, str]) -> str:
    if config.get("data.grey") != "True":
        return ""
    return f"grey {' × '.join(re.findall(r'[0-9]+', config.get('data.size', '')))}".strip()


def _epochs(runs: Sequence[Run]) -> str:
    spent = {epochs for run in runs if (epochs := number(run.record, "training", "epochs")) == epochs}
    return "–".join(f"{epochs:.4g}" for epochs in dict.fromkeys((min(spent), max(spent)))) if spent else ""


def comparison(printout: PrintedTable, given: Sequence[OurResult]) -> Comparison | None:
    """A printed table with our numbers; None if no run matches any of its numbers."""
    printed: dict[_Key, dict[str, list[PrintedNumber]]] = {}
    for item in printout.items:
        averaged = item.metric == "mean"
        key = _Key(item.quoted, item.method, item.inlier, item.out, "" if averaged else item.score)
        printed.setdefault(key, {}).setdefault(item.score if averaged else item.metric, []).append(item)
    metrics = list(dict.fromkeys(metric for row in printed.values() for metric in row))
    ours = {metric: [metric] for metric in metrics}
    low = any(item.metric == "auprc" and item.value < FLOOR for item in printout.items)
    if low or printout.either:
        ours["auprc"].append("auprc_in")
    lines: list[Line] = []
    used: dict[str, OurResult] = {}
    for key, row in sorted(printed.items(), key=lambda pair: pair[0].quoted):
        found = [
            a for a in given if a.paper in (printout.paper, "") and (a.method, a.inlier) == (key.method, key.inlier)
        ]
        found = [] if key.quoted else sorted(found, key=lambda a: (a.name, natural_order(a.label)))
        several_names = len({result.name for result in found}) > 1
        nobody: list[OurResult | None] = [None]
        for result in found or nobody:
            setting = "" if result is None else result.label
            if result is not None and several_names:
                setting = f"{result.name}, {setting}" if setting else result.name
            if result is not None:
                used[", ".join(filter(None, (_short(key.method), f"trained on {key.inlier}", setting)))] = result
            for score in _variants(key.score, result):
                words = (Entry(_short(key.method), hint=key.method), *map(Entry, (key.inlier, key.out)))
                words = (*words, Entry(score, describe_score(score)), Entry(setting))
                numbers = _numbers(row, ours, result, key._replace(score=score), whole=low)
                lines.append(Line("quoted" if key.quoted else "score", (*words, *numbers)))
    if not used:
        return None
    head = ["method", "in", "out", "score", "setting"]
    for metric in metrics:
        head += [f"{heading(metric)} paper", *(f"{heading(name)} ours" for name in ours[metric])]
    inliers = list(dict.fromkeys(key.inlier for key in printed))
    images = {result.images for result in used.values()}
    of = ", ".join(filter(None, (inliers[0], *(images if len(images) == 1 else ()))))
    before = f"Trained on {of}." if len(inliers) == 1 else ""
    # drop text columns that are empty or constant
    idle = [i for i in (3, 4) if not any(line.entries[i].text for line in lines)] + ([1] if before else [])
    keep = [i for i in range(len(head) + 2) if i not in idle]
    table = Table(
        tuple([*head, "seeds", "epochs"][i] for i in keep),
        tuple(Line(line.kind, tuple(line.entries[i] for i in keep)) for line in lines),
        labels=5 - len(idle),
    )
    warned = [f"{identity}: {sentence}" for identity, result in used.items() for sentence in result.warnings]
    ran = f"Ours: {', '.join(dict.fromkeys(result.name for result in used.values()))}."
    after = [*warned, ran, *_sampled(printout, list(used.values())), *_after(printout, low)]
    return Comparison(f"{printout.paper}, {printout.id}", printout.caption, before, table, after)


def _sampled(printout: PrintedTable, used: Sequence[OurResult]) -> list[str]:
    """A note on the sample counts in a table and those of our runs."""
    if not any(item.samples and not item.quoted for item in printout.items):
        return []
    ours = " or ".join(dict.fromkeys(result.sampling for result in used if result.sampling))
    return [f"S: the paper's importance samples{f'; ours took {ours}' if ours else ''}."]


def _variants(score: str, result: OurResult | None) -> list[str]:
    """A score and, if measured, its variant with the importance-weighted bound, which papers do not distinguish."""
    weighted = f"{score} iw"
    measured = result is not None and any(cell.score == weighted for cell in result.cells)
    return [score, weighted] if measured else [score]


def _numbers(
    row: Mapping[str, list[PrintedNumber]],
    ours: Mapping[str, list[str]],
    result: OurResult | None,
    key: _Key,
    whole: bool,
) -> list[Entry]:
    """The entries of a line: for each metric the printed numbers and ours, then our seeds and epochs.

    `whole`: take AUPRC_IN over whole sets.
    """
    found: dict[tuple[str, str], Cell] = {}
    for protocol in ("full", "balanced"):
        for cell in result.cells if result else ():
            if (cell.out, cell.protocol) == (key.out, protocol) and not (
                whole and cell.metric == "auprc_in" and protocol == "balanced"
            ):
                found[cell.metric, cell.score] = cell
    absent = "quoted" if key.quoted else "not run"
    if result is not None:
        absent = "not measured" if result.seeds else "diverged"
    entries = []
    for metric, names in ours.items():
        shown = join_entries(map(as_entry, row.get(metric, ())))
        entries.append(shown._replace(text=shown.text.replace(" quoted", "")))
        for name in names:
            mine = found.get((name, key.score) if key.score else ("mean", name))
            there = Entry(absent) if mine is None else cell_entry(mine)._replace(small="")
            printed = metric in row and (name == metric or not key.quoted)
            entries.append(there if printed else Entry(""))
    if result is None:
        return [*entries, Entry(""), Entry("")]
    total = result.seeds + result.diverged
    seeds = f"{result.seeds} ({result.diverged} of {total} diverged)" if result.diverged else str(result.seeds)
    theirs = next((item.epochs for items in row.values() for item in items if item.epochs), "")
    epochs = f"{result.epochs} of {theirs}" if result.epochs and theirs else result.epochs
    return [*entries, Entry(seeds), Entry(epochs)]


def _after(printout: PrintedTable, low: bool) -> list[str]:
    """Notes on a table: units, remarks of the transcription, and sources of quoted numbers."""
    found = list(printout.units)
    if low:
        found.append(
            f"AUPRC: an average precision over equal numbers is at least 1 − ln 2 = {FLOOR:.3f}, whatever the ranking. "
            "Less is printed here, so AUPRC_IN (inliers positive, whole sets) stands beside it."
        )
    elif printout.either:
        found.append("AUPRC: which class is positive is not said; here it is out, and in AUPRC_IN the inliers are.")
    remarks: dict[str, dict[str, None]] = {}
    for item in printout.items:
        texts = remarks.setdefault(_short(item.method), {})
        texts.update(dict.fromkeys(text for text in (item.note, item.source if item.quoted else "") if text))
    shared: dict[str, list[str]] = {}
    for method, texts in remarks.items():
        shared.setdefault("; ".join(texts), []).append(method)
    return found + [f"{', '.join(methods)}: {text}" for text, methods in shared.items() if text]


def _short(method: str) -> str:
    """A method's slug without the keys of its qualifiers: `ns_vae gaussian kmnist`."""
    return re.sub(r" \w+=", " ", method)
