r"""A paper's tables whole: a line for every inlier, out set, method and score it prints, and what our runs answer.

A run answers to a printed number by the rule of `report.paper_numbers`, if it was made after that paper or after none.
Of our numbers those over equal numbers in and out stand there, where measured. An average precision whose positives are
as many as its negatives is at least $1 - \ln 2$, whatever the ranking; in a table that prints less, ours with the
inliers positive, over whole sets, stands beside it too. So it does, over equal numbers, in a table that does not say
which class is positive.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from oodgen.report.grouping import Experiment, Run, sampling, warnings
from oodgen.report.overrides import asked
from oodgen.report.paper_numbers import Printed, Printout, as_entry, several
from oodgen.report.tables import Cell, Entry, Line, Table, aggregate, entry, gloss, heading, natural

__all__ = ["Answer", "Sheet", "answers", "sheet"]

FLOOR = 1 - math.log(2)


class Answer(NamedTuple):
    """What one experiment says in one setting.

    Arguments:
        label: What its commands asked for; where they are not known, what sets it apart from others of the experiment.
        paper: The paper it was made after; "" for none.
        cells: Means over the seeds that finished.
        seeds: How many finished.
        diverged: How many did not, because they diverged.
        epochs: The training budget, in words.
        images: What was made of the images before training, in words; "" for nothing.
        sampling: How many samples its bounds took, in words.
        warnings: Of its records.
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


class Sheet(NamedTuple):
    """A printed table beside ours: its name, its caption, what to know before reading it, and after."""

    name: str
    caption: str
    before: str
    table: Table
    after: list[str]


class _Key(NamedTuple):
    """What a printed number is of; the score is "" where means over a set stand side by side."""

    quoted: bool
    method: str
    inlier: str
    out: str
    score: str


def answers(found: Sequence[Experiment]) -> list[Answer]:
    """What the runs can answer; random images answer to nothing.

    Arguments:
        found: Experiments, with diverged runs as members without rows.
    """
    made: list[tuple[Answer, str]] = []
    for group in found:
        for setting, runs in group.runs.items():
            if any(run.config.get("smoke") == "True" for run in runs):
                continue
            first, finished = runs[0], [run for run in runs if run.rows]
            known, apart = asked(run.record for run in finished), f"{group.key}={setting}" if group.key else group.label
            label = apart if known is None else ", ".join(known)
            limit = first.config.get("data.limit", "None")
            if limit != "None" and "data.limit" not in label:
                label = ", ".join(filter(None, (label, f"data.limit={limit}")))
            facts = (first.record.get("paper") or "", first.record["method"] or "", first.inlier)
            cells = aggregate(row for run in finished for row in run.rows)
            counts = (len(finished), len(runs) - len(finished))
            words = (_epochs(finished), _images(first.config), sampling(first.config))
            who = (first.record["experiment"], label, *facts)
            made.append((Answer(*who, cells, *counts, *words, warnings(finished)), apart))
    often = Counter(_line(answer) for answer, _ in made)
    # what no command asked for may differ all the same, as in runs of two versions of an experiment
    return [
        answer._replace(label=", ".join(filter(None, (answer.label, apart))))
        if often[_line(answer)] > 1 and apart not in answer.label
        else answer
        for answer, apart in made
    ]


def _line(answer: Answer) -> tuple[str, ...]:
    """What a line says of a setting; two that say the same could not be told apart."""
    return answer.name, answer.method, answer.inlier, answer.label, answer.epochs


def _images(config: Mapping[str, str]) -> str:
    if config.get("data.grey") != "True":
        return ""
    return f"grey {' × '.join(re.findall(r'[0-9]+', config.get('data.size', '')))}".strip()


def _epochs(runs: Sequence[Run]) -> str:
    spent = {float(epochs) for run in runs if (epochs := (run.record.get("training") or {}).get("epochs")) is not None}
    return "–".join(f"{epochs:.4g}" for epochs in dict.fromkeys((min(spent), max(spent)))) if spent else ""


def sheet(printout: Printout, given: Sequence[Answer]) -> Sheet | None:
    """A printed table beside ours; None where no run of ours answers to a number of it."""
    asked: dict[_Key, dict[str, list[Printed]]] = {}
    for item in printout.items:
        averaged = item.metric == "mean"
        key = _Key(item.quoted, item.method, item.inlier, item.out, "" if averaged else item.score)
        asked.setdefault(key, {}).setdefault(item.score if averaged else item.metric, []).append(item)
    metrics = list(dict.fromkeys(metric for row in asked.values() for metric in row))
    ours = {metric: [metric] for metric in metrics}
    low = any(item.metric == "auprc" and item.value < FLOOR for item in printout.items)
    if low or printout.either:
        ours["auprc"].append("auprc_in")
    lines: list[Line] = []
    used: dict[str, Answer] = {}
    for key, row in sorted(asked.items(), key=lambda pair: pair[0].quoted):
        found = [
            a for a in given if a.paper in (printout.paper, "") and (a.method, a.inlier) == (key.method, key.inlier)
        ]
        found = [] if key.quoted else sorted(found, key=lambda a: (a.name, natural(a.label)))
        several_names = len({answer.name for answer in found}) > 1
        nobody: list[Answer | None] = [None]
        for answer in found or nobody:
            setting = "" if answer is None else answer.label
            if answer is not None and several_names:
                setting = f"{answer.name}, {setting}" if setting else answer.name
            if answer is not None:
                used[", ".join(filter(None, (_short(key.method), f"trained on {key.inlier}", setting)))] = answer
            for score in _variants(key.score, answer):
                words = (Entry(_short(key.method), hint=key.method), *map(Entry, (key.inlier, key.out)))
                words = (*words, Entry(score, gloss(score)), Entry(setting))
                numbers = _numbers(row, ours, answer, key._replace(score=score), whole=low)
                lines.append(Line("quoted" if key.quoted else "score", (*words, *numbers)))
    if not used:
        return None
    head = ["method", "in", "out", "score", "setting"]
    for metric in metrics:
        head += [f"{heading(metric)} paper", *(f"{heading(name)} ours" for name in ours[metric])]
    inliers = list(dict.fromkeys(key.inlier for key in asked))
    images = {answer.images for answer in used.values()}
    of = ", ".join(filter(None, (inliers[0], *(images if len(images) == 1 else ()))))
    before = f"Trained on {of}." if len(inliers) == 1 else ""
    # columns of words that say the same, or nothing, in every line
    idle = [i for i in (3, 4) if not any(line.entries[i].text for line in lines)] + ([1] if before else [])
    keep = [i for i in range(len(head) + 2) if i not in idle]
    table = Table(
        tuple([*head, "seeds", "epochs"][i] for i in keep),
        tuple(Line(line.kind, tuple(line.entries[i] for i in keep)) for line in lines),
        labels=5 - len(idle),
    )
    warned = [f"{who}: {sentence}" for who, answer in used.items() for sentence in answer.warnings]
    ran = f"Ours: {', '.join(dict.fromkeys(answer.name for answer in used.values()))}."
    after = [*warned, ran, *_sampled(printout, list(used.values())), *_after(printout, low)]
    return Sheet(f"{printout.paper}, {printout.id}", printout.caption, before, table, after)


def _sampled(printout: Printout, used: Sequence[Answer]) -> list[str]:
    """Whose sample counts stand in a table, and how many samples ours took."""
    if not any(item.samples and not item.quoted for item in printout.items):
        return []
    ours = " or ".join(dict.fromkeys(answer.sampling for answer in used if answer.sampling))
    return [f"S: the paper's importance samples{f'; ours took {ours}' if ours else ''}."]


def _variants(score: str, answer: Answer | None) -> list[str]:
    """A score and, where measured, its form with the importance-weighted bound, which papers do not tell apart."""
    weighted = f"{score} iw"
    measured = answer is not None and any(cell.score == weighted for cell in answer.cells)
    return [score, weighted] if measured else [score]


def _numbers(
    row: Mapping[str, list[Printed]], ours: Mapping[str, list[str]], answer: Answer | None, key: _Key, whole: bool
) -> list[Entry]:
    """The numbers of a line: for each metric the printed ones and ours, then our seeds and their epochs.

    `whole`: the precision with the inliers positive is that over whole sets.
    """
    found: dict[tuple[str, str], Cell] = {}
    for protocol in ("full", "balanced"):
        for cell in answer.cells if answer else ():
            if (cell.out, cell.protocol) == (key.out, protocol) and not (
                whole and cell.metric == "auprc_in" and protocol == "balanced"
            ):
                found[cell.metric, cell.score] = cell
    absent = "quoted" if key.quoted else "not run"
    if answer is not None:
        absent = "not measured" if answer.seeds else "diverged"
    entries = []
    for metric, names in ours.items():
        shown = several(map(as_entry, row.get(metric, ())))
        entries.append(shown._replace(text=shown.text.replace(" quoted", "")))
        for name in names:
            mine = found.get((name, key.score) if key.score else ("mean", name))
            there = Entry(absent) if mine is None else entry(mine)._replace(small="")
            asked = metric in row and (name == metric or not key.quoted)
            entries.append(there if asked else Entry(""))
    if answer is None:
        return [*entries, Entry(""), Entry("")]
    total = answer.seeds + answer.diverged
    seeds = f"{answer.seeds} ({answer.diverged} of {total} diverged)" if answer.diverged else str(answer.seeds)
    theirs = next((item.epochs for items in row.values() for item in items if item.epochs), "")
    epochs = f"{answer.epochs} of {theirs}" if answer.epochs and theirs else answer.epochs
    return [*entries, Entry(seeds), Entry(epochs)]


def _after(printout: Printout, low: bool) -> list[str]:
    """What to know of a table's numbers: units, remarks of whoever transcribed them, and where quoted ones are from."""
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
    """A method's slug with the values of its qualifiers alone: `ns_vae gaussian kmnist`."""
    return re.sub(r" \w+=", " ", method)
