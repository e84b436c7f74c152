r"""Result rows as tables: over seeds, beside a paper's printed numbers, as Markdown, LaTeX, CSV or terminal text.

A row is one number of one run, a cell is one number of one experiment (a row, or the mean over seeds), a table is cells
laid out for reading. HTML is made from the same tables by `templates/tables.html`.

How a cell finds its printed numbers: same inlier set (`in`), same `out`, same method slug, same metric, same score. A
paper's `log_p` of a variational model is its bound, so it answers to `l>0`. Papers do not tell `llr>1` from
`llr>1 iw`, which takes the importance-weighted bound, so both find the same numbers. The sample count is not matched,
since it is not part of a score's name here: every printed count is listed with its number. A number that two tables of
a paper print alike is listed once. Percentages become fractions by the table's unit.
"""

import csv
import io
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from oodgen.errors import UserError

__all__ = [
    "Cell",
    "Entry",
    "Line",
    "Printed",
    "Row",
    "Table",
    "aggregate",
    "as_csv",
    "beside",
    "elsewhere",
    "find_paper",
    "gloss",
    "latex",
    "lookup",
    "main_protocol",
    "markdown",
    "number",
    "pivot",
    "read",
    "read_paper",
    "terminal",
]

FRACTIONS = ("auroc", "auprc", "auprc_in", "ap", "fpr80", "fpr95", "accuracy", "separation")
LOWER_IS_BETTER = ("fpr80", "fpr95", "bpd")


class Row(NamedTuple):
    """One number of one run, as in results.csv; `low` and `high` (bootstrap) are nan where there is no interval."""

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


class Cell(NamedTuple):
    """One number of one experiment. `sd` is nan for one seed; `low` and `high` (bootstrap) are nan for several."""

    experiment: str
    inlier: str
    out: str
    score: str
    metric: str
    protocol: str
    value: float
    sd: float
    low: float
    high: float
    seeds: tuple[int, ...]
    n_in: int
    n_out: int


class Printed(NamedTuple):
    """One number printed in a paper. `quoted` means that its authors copied it: never comparable as their own."""

    paper: str
    table: str
    inlier: str
    out: str
    method: str
    score: str
    metric: str
    samples: str
    value: float
    std: float
    quoted: bool
    source: str
    decimals: int


class Entry(NamedTuple):
    """One place of a table: what stands there, in small print below, and on hover."""

    text: str
    small: str = ""
    hint: str = ""
    best: bool = False
    value: float = math.nan


class Line(NamedTuple):
    """A line of a table; kind is score, oracle or control, and a rule is drawn where it changes."""

    kind: str
    entries: tuple[Entry, ...]


class Table(NamedTuple):
    """A laid-out table; the first `labels` columns are words, the others numbers."""

    head: tuple[str, ...]
    lines: tuple[Line, ...]
    labels: int = 1


def _float(text: str) -> float:
    return float(text) if text.strip() else math.nan


def read(path: Path) -> list[Row]:
    """The rows of one results.csv.

    Raises:
        UserError: the file is missing, lacks a column or holds something that is not a number.
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
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            missing = [name for name in Row._fields if name not in (table.fieldnames or ())]
            if missing:
                raise UserError(f"{path} has no column {', '.join(missing)}; evaluate this run again")
            return [Row._make(kinds.get(name, str)(line[name]) for name in Row._fields) for line in table]
    except (OSError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}; evaluate this run again") from error


def aggregate(rows: Iterable[Row]) -> list[Cell]:
    r"""Mean and standard deviation (n - 1) over seeds; a single seed keeps its bootstrap interval instead.

    Raises:
        ValueError: a seed occurs twice in one cell, so that two different things would be averaged.
    """
    groups: dict[tuple[str, str, str, str, str, str], list[Row]] = {}
    for row in rows:
        key = (row.experiment, row.inlier, row.out, row.score, row.metric, row.protocol)
        groups.setdefault(key, []).append(row)
    cells = []
    for key, group in groups.items():
        seeds = tuple(sorted(row.seed for row in group))
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{'/'.join(key)} holds a seed twice: {seeds}")
        values = [row.value for row in group]
        one = len(group) == 1
        low, high = (group[0].low, group[0].high) if one else (math.nan, math.nan)
        sd = math.nan if one else statistics.stdev(values)
        n_in, n_out = min(row.n_in for row in group), min(row.n_out for row in group)
        cells.append(Cell(*key, statistics.fmean(values), sd, low, high, seeds, n_in, n_out))
    return cells


def main_protocol(cells: Sequence[Cell]) -> str:
    """Whole test sets where there are any, else the papers' equal numbers."""
    return "full" if any(cell.protocol == "full" for cell in cells) else "balanced"


_ORDER = ("l>", "llr>", "llr_ada", "llr_rule", "", "kl_", "complexity")


# A word after a score's name says in what it differs from that score.
_VARIANTS = {
    "iw": "with the importance-weighted l>0",
    "gap": "without the KL",
    "mode": "lower levels by their mode",
}


def _rank(score: str) -> tuple[int, int, str]:
    name = score.split(" ")[0]
    stem, level = re.fullmatch(r"(.*?)(\d*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    family = stem if stem in ("l>", "llr>", "kl_") else "complexity" if name.startswith("complexity") else name
    return _ORDER.index(family if family in _ORDER else ""), int(level or 0), score


def gloss(score: str) -> str:
    """What a score is, in a few words; empty for a score not known here."""
    name, _, variant = score.partition(" ")
    if variant:
        return f"{gloss(name)}, {_VARIANTS[variant]}" if gloss(name) and variant in _VARIANTS else ""
    stem, level = re.fullmatch(r"(.*?)(\d*)", score, re.DOTALL).groups()  # type: ignore[union-attr]
    families = {
        "l>": "plain likelihood" if level == "0" else f"bound of the levels above {level}",
        "llr>": f"ratio: l>{level} against l>0",
        "kl_": f"KL of level {level}",
    }
    words = {
        "llr_ada": "adaptive ratio",
        "llr_rule": "ratio, k chosen by the rule",
        "complexity_png": "likelihood less PNG bits",
        "complexity_jpeg2000": "likelihood less JPEG bits",
        "control:mean": "mean intensity",
        "control:entropy": "entropy of the pixels",
        "control:total_variation": "total variation",
        "control:png_bits": "compressed size",
        "control:jpeg2000_bits": "compressed size, JPEG 2000",
    }
    return words.get(score, families.get(stem, "") if level else "")


def number(metric: str, value: float) -> str:
    """A value as tables print it: three decimals, one for nats."""
    return "–" if math.isnan(value) else f"{value:.1f}" if metric == "nats" else f"{value:.3f}"


def _entry(cell: Cell) -> Entry:
    text = number(cell.metric, cell.value)
    counts = f"{cell.protocol} sets, n = {cell.n_in:,} in, {cell.n_out:,} out" if cell.n_out else cell.protocol
    if len(cell.seeds) > 1:
        text += f" ± {number(cell.metric, cell.sd)}"
        hint = f"mean ± sd over {len(cell.seeds)} seeds"
        return Entry(text, "", f"{hint}; {counts}", value=cell.value)
    if math.isnan(cell.low) or math.isnan(cell.high):
        return Entry(text, "", counts, value=cell.value)
    interval = f"{number(cell.metric, cell.low)}–{number(cell.metric, cell.high)}"
    return Entry(text, interval, f"95 % bootstrap interval {interval}; {counts}", value=cell.value)


def pivot(cells: Sequence[Cell], metric: str = "auroc", protocol: str | None = None) -> Table:
    """Scores x out sets of one metric: scores first, then what was chosen with OOD data (oracle), then controls.

    The best honest score of each column is marked. Controls have no direction of their own: beside AUROC they
    show how far they separate the two sets either way, max(a, 1 - a).
    """
    protocol = protocol or main_protocol(cells)
    found: dict[tuple[str, str], dict[str, Entry]] = {}
    outs: dict[str, None] = {}
    for cell in cells:
        control = cell.score.startswith("control:")
        wanted = "separation" if control and metric == "auroc" else metric
        if cell.metric == wanted and cell.protocol in (protocol, "oracle"):
            kind = "control" if control else "oracle" if cell.protocol == "oracle" else "score"
            outs.setdefault(cell.out)
            found.setdefault((kind, cell.score), {})[cell.out] = _entry(cell)
    sign = -1 if metric in LOWER_IS_BETTER else 1
    for out in outs:
        honest = {s: e[out] for (kind, s), e in found.items() if kind == "score" and out in e}
        if metric in FRACTIONS and len(honest) > 1:
            best = max(honest.values(), key=lambda e: sign * e.value if e.value == e.value else -math.inf)
            for score, entry in honest.items():
                if number(metric, entry.value) == number(metric, best.value):
                    found["score", score][out] = entry._replace(best=True)
    kinds = ("score", "oracle", "control")
    lines = []
    for kind, score in sorted(found, key=lambda key: (kinds.index(key[0]), _rank(key[1]))):
        label = f"{score} (oracle)" if kind == "oracle" and "oracle" not in score else score
        entries = [found[kind, score].get(out, Entry("")) for out in outs]
        lines.append(Line(kind, (Entry(label, gloss(score)), *entries)))
    return Table(("score", *outs), tuple(lines))


def find_paper(slug: str) -> Path | None:
    """The transcribed numbers of a paper: in the working folder, the checkout or the installed package."""
    package = Path(__file__).resolve().parent
    for root in (Path(), package.parents[1], package):
        path = root / "experiments" / slug / "paper.yaml"
        if path.is_file():
            return path
    return None


def read_paper(path: Path) -> list[Printed]:
    """The numbers a paper prints, AUROC and its like as fractions.

    Raises:
        UserError: the file is missing or not of the expected form.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        paper = yaml.load(path.read_text(encoding="utf-8"), loader)
        found = []
        for table in paper["tables"]:
            for cell in table["cells"]:
                metric = cell["metric"]
                unit = table.get("unit_by_metric", {}).get(metric, table["unit"])
                scale = 100 if unit == "percent" and metric in FRACTIONS else 1
                std = math.nan if cell.get("std") is None else float(cell["std"]) / scale
                samples = "" if cell.get("samples") is None else str(cell["samples"])
                score = "l>0" if cell["score"] == "log_p" else cell["score"] or ""
                names = (paper["slug"], table["id"], cell["in"], cell["out"], cell["method"], score, metric, samples)
                value, quoted, source = float(cell["value"]) / scale, cell["role"] == "quoted", str(cell["source"])
                # as many decimals as were printed: a table of three significant digits states no fixed number
                places = table["decimals"] if isinstance(table["decimals"], int) else len(str(value).partition(".")[2])
                found.append(Printed(*names, value, std, quoted, source, places + (2 if scale == 100 else 0)))
        return found
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the path of a paper.yaml") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a paper's table of numbers ({type(error).__name__}: {reason})") from error


def lookup(printed: Iterable[Printed], cell: Cell, method: str) -> list[Printed]:
    """The printed numbers that answer to a cell, each once, by the rule at the head of this file."""
    wanted = (cell.inlier, cell.out, method, cell.score.removesuffix(" iw"), cell.metric)
    found: dict[tuple[str, str, float, bool], Printed] = {}
    for item in printed:
        if (item.inlier, item.out, item.method, item.score, item.metric) == wanted:
            key = (item.paper, item.samples, item.value, item.quoted)
            other = found.get(key)
            found[key] = item if other is None else other._replace(table=f"{other.table}, {item.table}")
    return sorted(found.values(), key=lambda item: (item.paper, int(item.samples) if item.samples.isdigit() else 0))


def _printed_entry(item: Printed) -> Entry:
    text = f"{item.value:.{item.decimals}f}"
    if not math.isnan(item.std):
        text += f" ± {item.std:.{item.decimals}f}"
    if item.samples:
        text += f" (S={item.samples})"
    where = f"{item.paper}, {item.table}"
    return Entry(f"{text} quoted" if item.quoted else text, "", f"{where}; {item.source}" if item.quoted else where)


def _several(items: Iterable[Entry]) -> Entry:
    items = list(items)
    return Entry("; ".join(e.text for e in items), "", " · ".join(e.hint for e in items if e.hint))


def beside(cells: Sequence[Cell], printed: Sequence[Printed], method: str) -> Table:
    """Our numbers beside the printed ones: a line per out set and score, equal numbers in and out where measured."""
    ours: dict[tuple[str, str], dict[str, Cell]] = {}
    for protocol in ("full", "balanced"):
        for cell in cells:
            if cell.protocol == protocol:
                ours.setdefault((cell.out, cell.score), {})[cell.metric] = cell
    matched = {
        pair: {m: (cell, items) for m, cell in row.items() if (items := lookup(printed, cell, method))}
        for pair, row in ours.items()
    }
    metrics = [m for m in ("auroc", "auprc", "fpr80", "fpr95", "bpd") if any(m in row for row in matched.values())]
    outs = list(dict.fromkeys(out for out, _ in matched))
    lines = []
    for out, score in sorted(matched, key=lambda pair: (outs.index(pair[0]), _rank(pair[1]))):
        row = matched[out, score]
        entries = [Entry(out), Entry(score, gloss(score))]
        for metric in metrics:
            if metric in row:
                cell, items = row[metric]
                entries += [_entry(cell), _several(map(_printed_entry, items))]
            else:
                entries += [Entry(""), Entry("")]
        if row:
            lines.append(Line("score", tuple(entries)))
    head = [
        f"{metric if metric == 'bpd' else metric.upper()} {whose}" for metric in metrics for whose in ("ours", "paper")
    ]
    return Table(("out", "score", *head), tuple(lines), labels=2)


def elsewhere(printed: Sequence[Printed], inlier: str, outs: Sequence[str], method: str) -> Table:
    """What the papers print for the same pairs and other methods; quoted numbers say from where."""
    metrics = ("auroc", "auprc", "fpr80")
    found: dict[tuple[str, str, str, str], dict[str, Printed]] = {}
    for item in printed:
        if item.inlier == inlier and item.out in outs and item.method != method and item.metric in metrics:
            origin = item.source if item.quoted else f"{item.paper}, {item.table}"
            found.setdefault((item.out, f"{item.method}: {item.score}", item.samples, origin), {})[item.metric] = item
    lines = []
    for (out, name, samples, origin), row in sorted(found.items(), key=lambda pair: outs.index(pair[0][0])):
        values = [Entry(f"{row[m].value:.{row[m].decimals}f}" if m in row else "") for m in metrics]
        label = Entry(f"{name} (S={samples})" if samples else name)
        lines.append(Line("score", (Entry(out), label, Entry(origin), *values)))
    return Table(("out", "method: score", "source", *(m.upper() for m in metrics)), tuple(lines), labels=3)


def markdown(table: Table) -> str:
    """A GitHub table; the best of a column is bold, oracle and control lines are set in italics."""
    widths = [":---" if i < table.labels else "---:" for i in range(len(table.head))]
    lines = ["| " + " | ".join(table.head) + " |", "|" + "|".join(widths) + "|"]
    for line in table.lines:
        texts = [e.text.replace("|", r"\|") for e in line.entries]
        if line.kind != "score":
            texts[0] = f"*{texts[0]}*"
        lines.append(
            "| " + " | ".join(f"**{t}**" if e.best else t for t, e in zip(texts, line.entries, strict=True)) + " |"
        )
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """A booktabs tabular."""

    def escape(text: str) -> str:
        text = re.sub(r"([&%_#$])", r"\\\1", text)
        return text.replace(">", "$>$").replace("±", r"$\pm$").replace("–", "--")

    lines = [r"\begin{tabular}{" + "l" * table.labels + "r" * (len(table.head) - table.labels) + "}", r"\toprule"]
    lines += [" & ".join(map(escape, table.head)) + r" \\", r"\midrule"]
    for i, line in enumerate(table.lines):
        if i and line.kind != table.lines[i - 1].kind:
            lines.append(r"\midrule")
        lines.append(
            " & ".join(rf"\textbf{{{escape(e.text)}}}" if e.best else escape(e.text) for e in line.entries) + r" \\"
        )
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def as_csv(records: Sequence[Row] | Sequence[Cell], printed: Sequence[Printed], methods: Mapping[str, str]) -> str:
    """Rows or cells as CSV, with a last column of the printed numbers. `methods` names each experiment's method."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = type(records[0])._fields if records else Row._fields
    writer.writerow([*fields, "printed"])
    for record in records:
        cell = record if isinstance(record, Cell) else aggregate([record])[0]
        items = [_printed_entry(item) for item in lookup(printed, cell, methods.get(record.experiment, ""))]
        values = [" ".join(map(str, v)) if isinstance(v, tuple) else "" if v != v else v for v in record]
        writer.writerow([*values, "; ".join(f"{e.text} [{e.hint}]" for e in items)])
    return text.getvalue()


def terminal(rows: Sequence[Row], width: int = 100) -> str:
    """AUROC of scores x out sets as plain text, controls below a rule; wide tables continue in blocks."""
    cells = aggregate(rows)
    table = pivot([cell for cell in cells if cell.out != cell.inlier], "auroc")
    head = [["score"], *([f"{part} " for part in re.findall(r"[^_]+_?", name)] for name in table.head[1:])]
    body = [[line.entries[0].text, *(e.text + "* "[not e.best] for e in line.entries[1:])] for line in table.lines]
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
