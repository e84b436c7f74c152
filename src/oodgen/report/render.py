r"""Tables as Markdown, LaTeX, CSV or terminal text."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence

from oodgen.report.cost import Cost
from oodgen.report.paper_numbers import PrintedNumber, as_entry, lookup
from oodgen.report.tables import Cell, Table, aggregate, pivot
from oodgen.runs import escape
from oodgen.runs.results import Row

__all__ = ["as_csv", "latex", "markdown", "terminal"]

COSTS = ("epochs", "steps", "train_seconds", "score_seconds", "parameters")


def markdown(table: Table) -> str:
    """A GitHub table with aligned columns; the best of a column is bold, lines other than scores are in italics."""
    grid = [[escape.markdown(text) for text in table.head]]
    for line in table.lines:
        texts = [escape.markdown(e.text) for e in line.entries]
        if line.kind != "score":
            texts[0] = f"*{texts[0]}*"
        grid.append([f"**{t}**" if e.best else t for t, e in zip(texts, line.entries, strict=True)])
    sizes = [max(3, *map(len, column)) for column in zip(*grid, strict=True)]
    words = [i < table.labels for i in range(len(sizes))]
    rule = "|".join(":" + "-" * (n + 1) if w else "-" * (n + 1) + ":" for n, w in zip(sizes, words, strict=True))
    lines = []
    for texts in grid:
        padded = (t.ljust(n) if w else t.rjust(n) for t, n, w in zip(texts, sizes, words, strict=True))
        lines.append("| " + " | ".join(padded) + " |")
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]]) + "\n"


def latex(table: Table) -> str:
    """A booktabs tabular."""
    lines = [r"\begin{tabular}{" + "l" * table.labels + "r" * (len(table.head) - table.labels) + "}", r"\toprule"]
    lines += [" & ".join(map(escape.latex, table.head)) + r" \\", r"\midrule"]
    for i, line in enumerate(table.lines):
        if i and line.kind != table.lines[i - 1].kind:
            lines.append(r"\midrule")
        lines.append(
            " & ".join(rf"\textbf{{{escape.latex(e.text)}}}" if e.best else escape.latex(e.text) for e in line.entries)
            + r" \\"
        )
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def as_csv(
    records: Sequence[tuple[str, Row]] | Sequence[tuple[str, Cell]],
    printed: Sequence[PrintedNumber],
    methods: Mapping[str, str],
    costs: Mapping[tuple[str, str], Cost] | None = None,
) -> str:
    """Rows or cells as CSV, with additional columns for the setting, the cost and the printed numbers.

    Arguments:
        records: Pairs of the value of the option that the experiment sweeps ("" if none) and a row or cell.
        printed: The papers' numbers.
        methods: Experiment -> method.
        costs: Experiment and setting -> cost, an empty field where it is not recorded; None for no columns of it.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = type(records[0][1])._fields if records else Row._fields
    writer.writerow([*fields, "setting", *(COSTS if costs is not None else ()), "printed"])
    for setting, record in records:
        cell = record if isinstance(record, Cell) else aggregate([record])[0]
        items = [as_entry(item) for item in lookup(printed, cell, methods.get(record.experiment, ""))]
        values = [" ".join(map(str, v)) if isinstance(v, tuple) else "" if v != v else v for v in record]
        spent: list[object] = []
        if costs is not None:
            known = costs[cell.experiment, setting]._asdict()
            numbers = known | {"score_seconds": known["score_seconds"].get(cell.score, math.nan)}
            spent = ["" if numbers[name] != numbers[name] else f"{numbers[name]:.9g}" for name in COSTS]
        words = "; ".join(f"{e.text} [{e.hint}]" for e in items)
        line = (escape.terminal(v) if isinstance(v, str) else v for v in [*values, setting, *spent, words])
        writer.writerow(map(escape.cell, line))
    return text.getvalue()


def terminal(rows: Sequence[Row], width: int = 100) -> str:
    """AUROC of scores x out sets as plain text, controls below a rule; wide tables are split into blocks."""
    cells = aggregate(rows)
    table = pivot([cell for cell in cells if cell.out != cell.inlier], "auroc")
    names = map(escape.terminal, table.head[1:])
    head = [["score"], *([f"{part} " for part in re.findall(r"[^_]+_?", name)] for name in names)]
    body = [
        [escape.terminal(line.entries[0].text), *(e.text + "* "[not e.best] for e in line.entries[1:])]
        for line in table.lines
    ]
    sizes = [max(map(len, column)) for column in zip(*body, strict=True)] if body else [0] * len(head)
    sizes = [max(size, *map(len, words)) for size, words in zip(sizes, head, strict=True)]
    blocks: list[list[int]] = [[]]
    for i in range(1, len(sizes)):
        if blocks[-1] and sizes[0] + sum(sizes[j] + 2 for j in [*blocks[-1], i]) > width:
            blocks.append([])
        blocks[-1].append(i)
    text: list[str] = []
    for block in blocks:
        if text:
            text.append("")
        columns = [0, *block]
        depth = max(len(head[i]) for i in columns)
        padded = [[""] * (depth - len(head[i])) + head[i] for i in columns]
        grid = [[words[d] for words in padded] for d in range(depth)]
        rule = "-" * (sizes[0] + sum(sizes[i] + 2 for i in block))
        show = [_spaced(line, [sizes[i] for i in columns]) for line in grid] + [rule]
        for n, line in enumerate(table.lines):
            if n and line.kind != table.lines[n - 1].kind:
                show.append(rule)
            show.append(_spaced([body[n][i] for i in columns], [sizes[i] for i in columns]))
        text += show
    notes = ["AUROC, larger score = more OOD; * best of a column"]
    if any(line.kind == "oracle" for line in table.lines):
        notes.append("oracle: chosen with OOD data in hand")
    if any(line.kind == "control" for line in table.lines):
        notes.append("control: the image alone, max(a, 1 - a)")
    return "\n".join([*text, *notes])


def _spaced(texts: Sequence[str], sizes: Sequence[int]) -> str:
    first = texts[0].ljust(sizes[0])
    return (first + "".join("  " + t.rjust(s) for t, s in zip(texts[1:], sizes[1:], strict=True))).rstrip()
