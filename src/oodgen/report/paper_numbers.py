r"""The numbers printed in papers, and their comparison with ours.

A cell matches a printed number if inlier set (`in`), `out`, method slug, metric and score are equal, where

* a slug contains the qualifiers of the transcribed cell: `ns_vae likelihood=gaussian negatives=kmnist`;
* a paper's `log_p` or `bpd` of a variational model is the bound `l>0`; a "bits/dim" whose unit, by the table, is
  nats/dim is our metric `nats_dim`;
* an average over a set (`mse`) is our metric `mean` of the score of that name;
* `_gray` copies of a set have the name of the set;
* `llr>1` and `llr>1 iw` (with the importance-weighted bound) match the same numbers, since papers do not distinguish
  them;
* sample counts are ignored: every printed count is listed with its number;
* a paper's `ap` is our `auprc`, its `accuracy` that of our score `class`; percentages become fractions.

A number that two tables of a paper share is listed once.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from oodgen.errors import UserError
from oodgen.report.tables import (
    FRACTIONS,
    Cell,
    Entry,
    Line,
    Table,
    cell_entry,
    describe_score,
    format_decimal,
    heading,
    score_order,
)
from oodgen.runs.documents import load_yaml

__all__ = [
    "PrintedNumber",
    "PrintedTable",
    "as_entry",
    "comparison",
    "find_paper",
    "find_papers",
    "join_entries",
    "lookup",
    "other_methods",
    "read_paper",
    "read_scores",
    "read_tables",
]

QUALIFIERS = ("likelihood", "negatives", "simple")
AVERAGED = ("mse", "psnr", "ssim")


class PrintedNumber(NamedTuple):
    """One number printed in a paper.

    `quoted`: the authors copied it from another paper. `epochs`: their training budget if the paper states it, from
    `epochs` of the table or else of the file, one number or one for each method.
    """

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
    note: str
    epochs: str


class PrintedTable(NamedTuple):
    """One table of a paper; `units` describes units other than fractions and percentages.

    `either`: the paper does not state which class is the positive one of its average precision.
    """

    paper: str
    id: str
    caption: str
    units: tuple[str, ...]
    items: tuple[PrintedNumber, ...]
    either: bool = False


def find_paper(slug: str, file: str = "paper.yaml") -> Path | None:
    """The path of experiments/<slug>/<file>: in the working folder, the checkout or the package; None if missing."""
    return next((path for root in _roots() if (path := root / slug / file).is_file()), None)


def find_papers() -> list[Path]:
    """The paths of all papers' paper.yaml, found as by `find_paper`."""
    return next((found for root in _roots() if (found := sorted(root.glob("*/paper.yaml")))), [])


def _roots() -> list[Path]:
    package = Path(__file__).resolve().parents[1]
    return [root / "experiments" for root in (Path(), package.parents[1], package)]


def read_scores(path: Path) -> dict[str, str]:
    """The scores that a paper proposes or runs as rivals -> their source.

    Raises:
        UserError: the file is missing, or states them in another form.
    """
    scores = load_yaml(path).get("scores", {})
    if not isinstance(scores, dict):
        raise UserError(f"{path}: scores is no table of a score and its source")
    return {str(score): str(source) for score, source in scores.items()}


def read_paper(path: Path) -> list[PrintedNumber]:
    """The numbers of all tables of a paper; AUROC and similar metrics as fractions.

    Raises:
        UserError: the file is missing or not of the expected form.
    """
    return [item for table in read_tables(path) for item in table.items]


def read_tables(path: Path) -> list[PrintedTable]:
    """The tables of a paper, in order.

    Raises:
        UserError: the file is missing or not of the expected form.
    """
    try:
        paper = load_yaml(path)
        found = []
        for table in paper["tables"]:
            items: list[PrintedNumber] = []
            units: dict[str, None] = {}
            for cell in table["cells"]:
                unit = table.get("unit_by_metric", {}).get(cell["metric"], table["unit"])
                item = _item(paper["slug"], table, cell, unit, table.get("epochs", paper.get("epochs")))
                items.append(item)
                if unit not in ("fraction", "percent"):
                    name = heading(item.score if item.metric == "mean" else item.metric)
                    units[unit if unit.startswith(name) else f"{name}: {unit}"] = None
            about = (paper["slug"], table["id"], table.get("caption", ""), tuple(units), tuple(items))
            found.append(PrintedTable(*about, table.get("positive") == "unsaid"))
        return found
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a paper's table of numbers ({type(error).__name__}: {reason})") from error


def _item(paper: str, table: Mapping[str, Any], cell: Mapping[str, Any], unit: str, trained: Any) -> PrintedNumber:
    """A transcribed cell under our names, by the rules in this module's docstring."""
    inlier, out, score, metric = cell["in"], cell["out"], cell["score"] or "", cell["metric"]
    if score in ("log_p", "bpd") or (metric == "bpd" and not score):
        score = "l>0"
    elif metric == "accuracy":
        score = score or "class"
    metric = "auprc" if metric == "ap" else metric
    if metric in AVERAGED:
        score, metric = metric, "mean"
        out = cell.get("eval_on") or out
    elif metric == "bpd" and unit.startswith("nats/dim"):
        metric = "nats_dim"
        out = inlier if cell.get("split") == "in_test" else out
    inlier, out = inlier.removesuffix("_gray"), out.removesuffix("_gray")
    method = " ".join([cell["method"], *(f"{key}={cell[key]}" for key in QUALIFIERS if cell.get(key) is not None)])
    scale = 100 if unit == "percent" and metric in FRACTIONS else 1
    value, std = float(cell["value"]), math.nan if cell.get("std") is None else float(cell["std"])
    # the number of printed decimals; tables in significant digits do not state it
    places = len(str(value).partition(".")[2])
    if isinstance(table["decimals"], int):
        places = max(places, table["decimals"])
    # the `samples` of an ensemble are its members, not importance samples
    samples = "" if cell.get("samples") is None or cell.get("ensemble") else str(cell["samples"])
    names = (paper, table["id"], inlier, out, method, score, metric, samples)
    quoted, origin = cell["role"] == "quoted", (str(cell["source"]), places + (2 if scale == 100 else 0))
    trained = trained.get(cell["method"]) if isinstance(trained, dict) else trained
    epochs = "" if quoted or trained is None else f"{int(trained)}"
    return PrintedNumber(*names, value / scale, std / scale, quoted, *origin, cell.get("note") or "", epochs)


def lookup(printed: Iterable[PrintedNumber], cell: Cell, method: str) -> list[PrintedNumber]:
    """The printed numbers that match a cell, each once, by the rules in this module's docstring."""
    wanted = (cell.inlier, cell.out, method, cell.score.removesuffix(" iw"), cell.metric)
    found: dict[tuple[str, str, float, bool], PrintedNumber] = {}
    for item in printed:
        if (item.inlier, item.out, item.method, item.score, item.metric) == wanted:
            key = (item.paper, item.samples, item.value, item.quoted)
            other = found.get(key)
            found[key] = item if other is None else other._replace(table=f"{other.table}, {item.table}")
    return sorted(found.values(), key=lambda item: (item.paper, int(item.samples) if item.samples.isdigit() else 0))


def as_entry(item: PrintedNumber) -> Entry:
    """The table entry of a printed number, with its sample count; its source as hover text."""
    text = format_decimal(item.value, item.decimals)
    if not math.isnan(item.std):
        text += f" ± {format_decimal(item.std, item.decimals)}"
    if item.samples:
        text += f" (S={item.samples})"
    where = f"{item.paper}, {item.table}"
    return Entry(f"{text} quoted" if item.quoted else text, "", f"{where}; {item.source}" if item.quoted else where)


def join_entries(items: Iterable[Entry]) -> Entry:
    """Join entries of one field."""
    items = list(items)
    return Entry("; ".join(e.text for e in items), "", " · ".join(e.hint for e in items if e.hint))


def comparison(cells: Sequence[Cell], printed: Sequence[PrintedNumber], method: str) -> Table:
    """Table of our and printed numbers: a line per out set and score, of the balanced protocol where measured."""
    ours: dict[tuple[str, str], dict[str, Cell]] = {}
    for protocol in ("full", "balanced"):
        for cell in cells:
            if cell.protocol == protocol:
                ours.setdefault((cell.out, cell.score), {})[cell.metric] = cell
    matched = {
        pair: {m: (cell, items) for m, cell in row.items() if (items := lookup(printed, cell, method))}
        for pair, row in ours.items()
    }
    order = ("auroc", "auprc", "fpr80", "fpr95", "bpd", "nats_dim", "mean", "accuracy")
    metrics = [metric for metric in order if any(metric in row for row in matched.values())]
    outs = list(dict.fromkeys(out for out, _ in matched))
    lines = []
    for out, score in sorted(matched, key=lambda pair: (outs.index(pair[0]), score_order(pair[1]))):
        row = matched[out, score]
        entries = [Entry(out), Entry(score, describe_score(score))]
        for metric in metrics:
            if metric in row:
                cell, items = row[metric]
                entries += [cell_entry(cell), join_entries(map(as_entry, items))]
            else:
                entries += [Entry(""), Entry("")]
        if row:
            lines.append(Line("score", tuple(entries)))
    head = [f"{heading(metric)} {source}" for metric in metrics for source in ("ours", "paper")]
    return Table(("out", "score", *head), tuple(lines), labels=2)


def other_methods(printed: Sequence[PrintedNumber], inlier: str, outs: Sequence[str], method: str) -> Table:
    """Table of printed numbers of other methods for the same pairs of sets; quoted numbers with their source.

    Equal numbers of several tables share a line.
    """
    metrics = ("auroc", "auprc", "fpr80")
    found: dict[tuple[str, str, str, str], dict[str, dict[str, PrintedNumber]]] = {}
    for item in printed:
        if item.inlier == inlier and item.out in outs and item.method != method and item.metric in metrics:
            origin = item.source if item.quoted else item.paper
            key = (item.out, f"{item.method}: {item.score}", item.samples, origin)
            found.setdefault(key, {}).setdefault(item.table, {})[item.metric] = item
    lines = []
    for (out, name, samples, origin), rows in sorted(found.items(), key=lambda pair: outs.index(pair[0][0])):
        label = Entry(f"{name} (S={samples})" if samples else name)
        for where, row in _alike(rows):
            values = [Entry(format_decimal(row[m].value, row[m].decimals)) if m in row else Entry("") for m in metrics]
            quoted = any(item.quoted for item in row.values())
            source = Entry(origin if quoted else ", ".join((origin, *where)))
            lines.append(Line("score", (Entry(out), label, source, *values)))
    return Table(("out", "method: score", "source", *map(heading, metrics)), tuple(lines), labels=3)


def _alike(rows: Mapping[str, Mapping[str, PrintedNumber]]) -> list[tuple[list[str], dict[str, PrintedNumber]]]:
    """Pairs of tables and their row, tables without contradicting numbers joined."""
    joined: list[tuple[list[str], dict[str, PrintedNumber]]] = []
    for table, row in rows.items():
        for places, known in joined:
            if all(known[metric].value == row[metric].value for metric in known.keys() & row.keys()):
                places.append(table)
                known.update(row)
                break
        else:
            joined.append(([table], dict(row)))
    return joined
