r"""Tables of results. A row is one number of one run, a cell one number of one experiment (the mean over seeds), a
table an arrangement of cells. `oodgen.report.render` and `templates/tables.html` format tables.
"""

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from oodgen.runs.results import Row

__all__ = [
    "FRACTIONS",
    "Cell",
    "Entry",
    "Line",
    "Table",
    "aggregate",
    "cell_entry",
    "describe_score",
    "format_decimal",
    "format_value",
    "heading",
    "main_protocol",
    "natural_order",
    "pivot",
    "score_order",
]

FRACTIONS = ("auroc", "auprc", "auprc_in", "ap", "fpr80", "fpr95", "accuracy", "separation")
LOWER_IS_BETTER = ("fpr80", "fpr95", "bpd", "nats_dim")
PLACES = {"nats": 1, "psnr": 2, "mse": 4, "active": 0, "information": 2, "kl": 2}  # decimals; three for other metrics


class Cell(NamedTuple):
    """One number of one experiment; `sd` is nan for one seed, `low` and `high` (bootstrap) are nan for several."""

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


class Entry(NamedTuple):
    """One field of a table: text, small print below it, hover text, and whether it is the best of its column."""

    text: str
    small: str = ""
    hint: str = ""
    best: bool = False
    value: float = math.nan


class Line(NamedTuple):
    """A line of a table; kind is score, oracle, control or quoted, with a rule between kinds."""

    kind: str
    entries: tuple[Entry, ...]


class Table(NamedTuple):
    """A table; the first `labels` columns are text, the others numbers."""

    head: tuple[str, ...]
    lines: tuple[Line, ...]
    labels: int = 1


def aggregate(rows: Iterable[Row]) -> list[Cell]:
    r"""Mean and standard deviation (n - 1) over seeds, or the value and bootstrap interval of a single seed.

    With an infinite value the deviation is nan.

    Raises:
        ValueError: a seed occurs twice in one cell.
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
        sd = statistics.stdev(values) if not one and all(map(math.isfinite, values)) else math.nan
        n_in, n_out = min(row.n_in for row in group), min(row.n_out for row in group)
        cells.append(Cell(*key, statistics.fmean(values), sd, low, high, seeds, n_in, n_out))
    return cells


def main_protocol(cells: Sequence[Cell]) -> str:
    """The protocol "full" (whole test sets) if any cell has it, else "balanced" (equal numbers in and out)."""
    return "full" if any(cell.protocol == "full" for cell in cells) else "balanced"


_ORDER = ("evidence", "l>", "llr>", "llr_ada", "llr_rule", "", "kl_", "complexity")


# Descriptions of variants, the words after a score's name.
_VARIANTS = {
    "iw": "with the importance-weighted l>0",
    "gap": "without the KL",
    "mode": "lower levels by their mode",
    "1000": "from 1,000 samples",
}


def score_order(score: str) -> tuple[int, int, str]:
    """Sort key of scores: the evidence, bounds, ratios, the adaptive ratio, others, with levels in numerical order."""
    name = score.split(" ")[0]
    stem, level = re.fullmatch(r"(.*?)(\d*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    family = stem if stem in ("l>", "llr>", "kl_") else "complexity" if name.startswith("complexity") else name
    family = "kl_" if name == "kl" else "evidence" if name.startswith("evidence") else family
    return _ORDER.index(family if family in _ORDER else ""), int(level or 0), score


def describe_score(score: str) -> str:
    """A short description of a score; empty for an unknown one."""
    name, _, variant = score.partition(" ")
    if variant:
        return f"{describe_score(name)}, {_VARIANTS[variant]}" if describe_score(name) and variant in _VARIANTS else ""
    stem, level = re.fullmatch(r"(.*?)(\d*)", score, re.DOTALL).groups()  # type: ignore[union-attr]
    families = {
        "l>": "plain likelihood" if level == "0" else f"bound of the levels above {level}",
        "llr>": f"ratio: l>{level} against l>0",
        "kl_": f"KL of level {level}",
        "z": f"code of level {level}",
        "l<": f"bound of the levels below {level}",
    }
    words = {
        "kl": "KL of the posterior from the prior",
        "rate": "KL of the posterior from the prior",
        "d": "critic's value, negated",
        "var_d": "variance of the critics' values",
        "mse": "squared error of the reconstruction",
        "psnr": "PSNR of the reconstruction, dB",
        "ssim": "SSIM of the reconstruction",
        "msp": "maximum probability of a class",
        "entropy": "entropy of the classes",
        "odin": "tempered maximum probability, perturbed",
        "mahalanobis": "distance of the features to a class",
        "class": "the most probable class",
        "classifier": "logit of the known negatives",
        "evidence": "distance from inliers in all evidence",
        "llr_ada": "adaptive ratio",
        "llr_rule": "ratio, k chosen by the rule",
        "complexity_png": "likelihood less PNG bits",
        "complexity_jpeg2000": "likelihood less JPEG bits",
        "typicality": "distance from the mean bound",
        "regret": "what a posterior of its own gains",
        "evidence_model": "the same without the image",
        "evidence_image": "the same of the image alone",
        "control:mean": "mean intensity",
        "control:entropy": "entropy of the pixels",
        "control:total_variation": "total variation",
        "control:png_bits": "compressed size",
        "control:jpeg2000_bits": "compressed size, JPEG 2000",
    }
    return words.get(score, families.get(stem, "") if level else "")


def natural_order(setting: str) -> tuple[bool, str, float, str]:
    """Sort key of an option's values: epoch2 before epoch10, text after numbers.

    The third part is the number at the end of the value, infinite if there is none.
    """
    found = re.fullmatch(r"(.*?)([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)", setting, re.IGNORECASE)
    if not found:
        return True, "", math.inf, setting
    # after text, as in run-2, the sign is a hyphen
    return False, found[1], float(found[2].lstrip("+-") if found[1] else found[2]), setting


def format_decimal(value: float, places: int) -> str:
    """A number with `places` decimals, or in scientific notation where that needs more than seven digits."""
    return f"{value:.3g}" if math.isfinite(value) and abs(value) >= 10 ** (7 - places) else f"{value:.{places}f}"


def format_value(metric: str, value: float) -> str:
    """A value of a metric as printed in tables."""
    return "–" if math.isnan(value) else format_decimal(value, PLACES.get(metric, 3))


def heading(metric: str) -> str:
    """The column heading of a metric."""
    return metric.upper() if metric in FRACTIONS else {"nats_dim": "nats/dim"}.get(metric, metric)


def cell_entry(cell: Cell) -> Entry:
    """The table entry of a cell: the mean and its deviation, or the value with its interval in small print."""
    kind = cell.score if cell.metric == "mean" else cell.metric
    text = format_value(kind, cell.value)
    counts = f"{cell.protocol} sets, n = {cell.n_in:,} in, {cell.n_out:,} out" if cell.n_out else cell.protocol
    if len(cell.seeds) > 1:
        text += "" if math.isnan(cell.sd) else f" ± {format_value(kind, cell.sd)}"
        hint = f"mean ± sd over {len(cell.seeds)} seeds"
        return Entry(text, "", f"{hint}; {counts}", value=cell.value)
    if math.isnan(cell.low) or math.isnan(cell.high):
        return Entry(text, "", counts, value=cell.value)
    interval = f"{format_value(kind, cell.low)}–{format_value(kind, cell.high)}"
    return Entry(text, interval, f"95 % bootstrap interval {interval}; {counts}", value=cell.value)


def pivot(cells: Sequence[Cell], metric: str = "auroc", protocol: str | None = None) -> Table:
    """Table of scores x out sets for one metric: scores, then oracles (chosen with OOD data), then controls.

    The best score of each column that is neither oracle nor control is marked. Controls have no direction: for AUROC a
    their separation max(a, 1 - a) is shown.
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
            found.setdefault((kind, cell.score), {})[cell.out] = cell_entry(cell)
    sign = -1 if metric in LOWER_IS_BETTER else 1
    for out in outs:
        eligible = {s: e[out] for (kind, s), e in found.items() if kind == "score" and out in e}
        if metric in FRACTIONS and len(eligible) > 1:
            best = max(eligible.values(), key=lambda e: sign * e.value if e.value == e.value else -math.inf)
            for score, shown in eligible.items():
                if format_value(metric, shown.value) == format_value(metric, best.value):
                    found["score", score][out] = shown._replace(best=True)
    kinds = ("score", "oracle", "control")
    lines = []
    for kind, score in sorted(found, key=lambda key: (kinds.index(key[0]), score_order(key[1]))):
        label = f"{score} (oracle)" if kind == "oracle" and "oracle" not in score else score
        entries = [found[kind, score].get(out, Entry("")) for out in outs]
        lines.append(Line(kind, (Entry(label, describe_score(score)), *entries)))
    return Table(("score", *outs), tuple(lines))
