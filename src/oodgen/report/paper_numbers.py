r"""A paper's printed numbers, and ours beside them.

How a cell finds its printed numbers: same inlier set (`in`), same `out`, same method slug, same metric, same score. A
slug holds the qualifiers that a transcribed cell has: `ns_vae likelihood=gaussian negatives=kmnist`. A paper's `log_p`
or `bpd` of a variational model is its bound, so it answers to `l>0`; what it prints as bits/dim and is nats/dim, by the
table's unit, answers to `nats_dim`. A number that is only averaged over a set (`mse`) is our metric `mean` of the score
of that name. Grey copies of a set have its name. Papers do not tell `llr>1` from `llr>1 iw`, which takes the
importance-weighted bound, so both find the same numbers. The sample count is not matched, since it is not part of a
score's name here: every printed count is listed with its number. A number that two tables of a paper print alike is
listed once. Percentages become fractions by the table's unit. A paper's `ap` is our `auprc`. An `accuracy` is that of
our score `class`, the class that a classifier finds most probable.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from oodgen.errors import UserError
from oodgen.report.tables import FRACTIONS, Cell, Entry, Line, Table, decimal, entry, gloss, heading, rank

__all__ = [
    "Printed",
    "Printout",
    "as_entry",
    "beside",
    "elsewhere",
    "find_paper",
    "lookup",
    "read_paper",
    "read_tables",
    "several",
]

QUALIFIERS = ("likelihood", "negatives", "simple")
AVERAGED = ("mse", "psnr", "ssim")


class Printed(NamedTuple):
    """One number printed in a paper.

    `quoted` means that its authors copied it: never comparable as their own. `epochs` is how long they trained what
    they ran, where their text says so: `epochs` of the table or else of the file, one number or one for each method.
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


class Printout(NamedTuple):
    """One table of a paper; `units` are those of its numbers that a reader could mistake, in words.

    `either`: it does not say which class is the positive one of its average precision.
    """

    paper: str
    id: str
    caption: str
    units: tuple[str, ...]
    items: tuple[Printed, ...]
    either: bool = False


def find_paper(slug: str) -> Path | None:
    """The transcribed numbers of a paper: in the working folder, the checkout or the installed package."""
    package = Path(__file__).resolve().parents[1]
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
    return [item for table in read_tables(path) for item in table.items]


def read_tables(path: Path) -> list[Printout]:
    """The tables a paper prints, in their order.

    Raises:
        UserError: the file is missing or not of the expected form.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        paper = yaml.load(path.read_text(encoding="utf-8"), loader)
        found = []
        for table in paper["tables"]:
            items: list[Printed] = []
            units: dict[str, None] = {}
            for cell in table["cells"]:
                unit = table.get("unit_by_metric", {}).get(cell["metric"], table["unit"])
                item = _item(paper["slug"], table, cell, unit, table.get("epochs", paper.get("epochs")))
                items.append(item)
                if unit not in ("fraction", "percent"):
                    name = heading(item.score if item.metric == "mean" else item.metric)
                    units[unit if unit.startswith(name) else f"{name}: {unit}"] = None
            about = (paper["slug"], table["id"], table.get("caption", ""), tuple(units), tuple(items))
            found.append(Printout(*about, table.get("positive") == "unsaid"))
        return found
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the path of a paper.yaml") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a paper's table of numbers ({type(error).__name__}: {reason})") from error


def _item(paper: str, table: Mapping[str, Any], cell: Mapping[str, Any], unit: str, trained: Any) -> Printed:
    """A transcribed cell under our names, by the rule at the head of this file."""
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
    # as many decimals as were printed, which a table of so many significant digits states for no number
    places = len(str(value).partition(".")[2])
    if isinstance(table["decimals"], int):
        places = max(places, table["decimals"])
    # beside an ensemble's number stand its members, which are no importance samples
    samples = "" if cell.get("samples") is None or cell.get("ensemble") else str(cell["samples"])
    names = (paper, table["id"], inlier, out, method, score, metric, samples)
    quoted, origin = cell["role"] == "quoted", (str(cell["source"]), places + (2 if scale == 100 else 0))
    trained = trained.get(cell["method"]) if isinstance(trained, dict) else trained
    epochs = "" if quoted or trained is None else f"{int(trained)}"
    return Printed(*names, value / scale, std / scale, quoted, *origin, cell.get("note") or "", epochs)


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


def as_entry(item: Printed) -> Entry:
    """A printed number as tables show it, with its sample count; where it stands is on hover."""
    text = decimal(item.value, item.decimals)
    if not math.isnan(item.std):
        text += f" ± {decimal(item.std, item.decimals)}"
    if item.samples:
        text += f" (S={item.samples})"
    where = f"{item.paper}, {item.table}"
    return Entry(f"{text} quoted" if item.quoted else text, "", f"{where}; {item.source}" if item.quoted else where)


def several(items: Iterable[Entry]) -> Entry:
    """Entries that share a place, one after the other."""
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
    order = ("auroc", "auprc", "fpr80", "fpr95", "bpd", "nats_dim", "mean", "accuracy")
    metrics = [metric for metric in order if any(metric in row for row in matched.values())]
    outs = list(dict.fromkeys(out for out, _ in matched))
    lines = []
    for out, score in sorted(matched, key=lambda pair: (outs.index(pair[0]), rank(pair[1]))):
        row = matched[out, score]
        entries = [Entry(out), Entry(score, gloss(score))]
        for metric in metrics:
            if metric in row:
                cell, items = row[metric]
                entries += [entry(cell), several(map(as_entry, items))]
            else:
                entries += [Entry(""), Entry("")]
        if row:
            lines.append(Line("score", tuple(entries)))
    head = [f"{heading(metric)} {whose}" for metric in metrics for whose in ("ours", "paper")]
    return Table(("out", "score", *head), tuple(lines), labels=2)


def elsewhere(printed: Sequence[Printed], inlier: str, outs: Sequence[str], method: str) -> Table:
    """What the papers print for the same pairs and other methods; quoted numbers say from where.

    What several tables print alike stands in one line, which names them all.
    """
    metrics = ("auroc", "auprc", "fpr80")
    found: dict[tuple[str, str, str, str], dict[str, dict[str, Printed]]] = {}
    for item in printed:
        if item.inlier == inlier and item.out in outs and item.method != method and item.metric in metrics:
            origin = item.source if item.quoted else item.paper
            key = (item.out, f"{item.method}: {item.score}", item.samples, origin)
            found.setdefault(key, {}).setdefault(item.table, {})[item.metric] = item
    lines = []
    for (out, name, samples, origin), rows in sorted(found.items(), key=lambda pair: outs.index(pair[0][0])):
        label = Entry(f"{name} (S={samples})" if samples else name)
        for where, row in _alike(rows):
            values = [Entry(decimal(row[m].value, row[m].decimals)) if m in row else Entry("") for m in metrics]
            quoted = any(item.quoted for item in row.values())
            source = Entry(origin if quoted else ", ".join((origin, *where)))
            lines.append(Line("score", (Entry(out), label, source, *values)))
    return Table(("out", "method: score", "source", *map(heading, metrics)), tuple(lines), labels=3)


def _alike(rows: Mapping[str, Mapping[str, Printed]]) -> list[tuple[list[str], dict[str, Printed]]]:
    """Tables with their rows, those joined that print no number differently."""
    joined: list[tuple[list[str], dict[str, Printed]]] = []
    for table, row in rows.items():
        for places, known in joined:
            if all(known[metric].value == row[metric].value for metric in known.keys() & row.keys()):
                places.append(table)
                known.update(row)
                break
        else:
            joined.append(([table], dict(row)))
    return joined
