r"""The page of a run: report.html, self-contained, and its figures as files in figures/."""

import base64
import csv
import math
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
from markupsafe import Markup

from oodgen.errors import UserError
from oodgen.report import grouping, paper_numbers, tables
from oodgen.report.cost import duration
from oodgen.report.summary import verdict
from oodgen.runs import escape, locations, record, results
from oodgen.runs.files import write_text
from oodgen.runs.labels import default_score

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["Picture", "embed_figure", "read_reconstructions", "render", "write"]

LARGEST, MOST, SIDE = 2**28, 200, 1024  # of the reconstructions of a run: bytes, sets, pixels

METRICS = {
    "auprc": "AUPRC, OOD positive",
    "auprc_in": "AUPRC, inlier positive",
    "fpr80": "False positives at 80 % true positives (lower is better)",
    "fpr95": "False positives at 95 % true positives (lower is better)",
    "bpd": "Mean negative bound, bits per dimension, a density made the mass of a grey level's bin (lower is better)",
    "nats": "Mean bound, nats",
    "nats_dim": "Mean negative bound, nats per dimension, as a density of pixels on [0, 1] (lower is better)",
    "mean": "Means over each set: reconstruction",
    "accuracy": "Share of the inlier's test split whose class is the most probable one",
}

USAGE = {
    "kl": "KL of each layer, nats",
    "active": "Active units of each layer: elements whose posterior mean has a variance above 0.01 among images",
    "information": "What each layer's code tells of the image, nats, at most the logarithm of the number of images",
}


class Picture(NamedTuple):
    """A figure embedded in a page: file stem, data URI, and alternative text."""

    name: str
    uri: str
    words: str


def _tint(value: float) -> Markup:
    """Background colour of an AUROC: blue above one half, orange below."""
    if math.isnan(value):
        return Markup("")
    side = "high" if value >= 0.5 else "low"
    return Markup(f' style="background:rgb(var(--{side}) / {0.5 * abs(value - 0.5):.3f})"')


def _stacked(text: str) -> Markup:
    """Printed numbers on separate lines, with sample counts and deviations in small print."""
    html = re.sub(r" (± [^\s;]+)", r'<span class="sd">\1</span>', str(escape.html(text)).replace("; ", "<br>"))
    return Markup(re.sub(r" \(S=(\w+)\)", r" <small>S=\1</small>", html))


def render(template: str, **context: Any) -> str:
    """Render a template of this package."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("oodgen.report"),
        autoescape=True,
        finalize=escape.html,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["breakable"] = lambda name: Markup(str(escape.html(name)).replace("_", "_<wbr>"))
    environment.filters["stacked"] = _stacked
    environment.filters["tint"] = _tint
    return environment.get_template(template).render(**context)


def _columns(path: Path) -> "dict[str, NDArray[Any]]":
    """The columns of a CSV file of numbers; empty fields are nan."""
    import numpy as np

    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *lines = [line for line in csv.reader(file) if line] or [[]]
        values = np.array([[float(x) if x.strip() else np.nan for x in line] for line in lines], dtype=float)
        return {name: values[:, i] for i, name in enumerate(head)} if lines else {}
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"cannot read {path}: {error}; evaluate this run again") from error


def read_reconstructions(folder: Path) -> "dict[str, NDArray[Any]]":
    """The first examples of each set and their reconstructions, (1 + L, n, C, H, W); empty if none were stored.

    Arguments:
        folder: An evaluation's folder.

    Raises:
        UserError: the file is damaged.
    """
    import numpy as np

    path = folder / "reconstructions.npz"
    if not path.is_file():
        return {}
    try:
        with zipfile.ZipFile(path) as file:
            if sum(item.file_size for item in file.infolist()) > LARGEST or len(file.infolist()) > MOST:
                raise ValueError(f"it holds more than {MOST} sets or {LARGEST:,} bytes")
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive}
    except (OSError, ValueError, TypeError, EOFError, MemoryError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {path}: {error}; evaluate this run again") from error
    for name, pictures in found.items():
        if (
            pictures.ndim != 5
            or len(pictures) < 2
            or pictures.dtype != np.uint8
            or not 0 < min(pictures.shape) <= max(pictures.shape) <= SIDE
        ):
            raise UserError(
                f"{path} holds {name[:100]} of shape {pictures.shape}, no pictures; evaluate this run again"
            )
    return found


def _panels(scores: Sequence[str]) -> list[str]:
    """The scores of up to four panels: the default one, l>0, the first ratios, then others."""
    honest = [s for s in scores if not s.startswith("control:")]
    ratios = [s for s in honest if s.startswith("llr")]
    first = (default_score(honest), "l>0", *ratios[:2], *honest)
    return [s for s in dict.fromkeys(first) if s in honest][:4]


def embed_figure(figure: "Figure", path: Path, words: str = "") -> Picture:
    """Write a figure to a file and embed it."""
    from oodgen.plots import style

    return _embed(style.save(figure, path), words)


def _embed(path: Path, words: str = "") -> Picture:
    kind = "svg+xml" if path.suffix == ".svg" else "png"
    return Picture(path.stem, f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}", words)


def _pictures(eval_dir: Path, facts: Mapping[str, Any], inlier: str) -> dict[str, list[Picture]]:
    from oodgen.plots import figures

    folder = eval_dir / "figures"
    sets = {
        name: _columns(path) for name in facts["datasets"] if (path := eval_dir / "scores" / f"{name}.csv").is_file()
    }
    shown: dict[str, list[Picture]] = {"scores": [], "levels": [], "training": [], "more": []}
    if sets.get(inlier) and len(sets) > 1:
        names = _panels(list(sets[inlier]))
        chosen = {
            score: {name: columns[score] for name, columns in sets.items() if score in columns} for score in names
        }
        shown["scores"] = [
            embed_figure(figures.densities(chosen, inlier), folder / "densities.svg", "densities of four scores"),
            embed_figure(figures.roc(chosen, inlier), folder / "roc.svg", "ROC curves of the same scores"),
        ]
        if "l>0" in sets[inlier]:
            bounds = {name: -columns["l>0"] for name, columns in sets.items() if "l>0" in columns}
            path, words = folder / "likelihoods.svg", "log-likelihoods of all sets, far ones included"
            shown["scores"].append(embed_figure(figures.likelihoods(bounds, inlier), path, words))
    grids = read_reconstructions(eval_dir)
    for name in dict.fromkeys((inlier, *facts["datasets"])):
        if name in grids:
            title = f"{name} (in)" if name == inlier else name
            path = folder / ("levels_" + re.sub(r"[^\w-]", "_", name) + ".png")
            levels = figures.reconstructions(grids[name][:, :8], title)
            shown["levels"].append(embed_figure(levels, path, f"reconstructions of {name}"))
    train = locations.training_folder(eval_dir, facts)
    if train is not None and (path := train / "metrics.csv").is_file():
        drawn = figures.curves(_columns(path))
        if drawn is not None:
            shown["training"] = [embed_figure(drawn, folder / "curves.svg", "training curves")]
    ours = {picture.name for pictures in shown.values() for picture in pictures}
    extra = [
        p for p in sorted(folder.glob("*")) if p.suffix in (".svg", ".png") and p.stem not in ours and p.name[0] != "."
    ]
    shown["more"] = [_embed(path, path.stem.replace("_", " ")) for path in extra]
    return shown


def _about(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    provenance = facts.get("provenance") or {}
    seconds = provenance.get("seconds") or {}
    memory = provenance.get("peak_memory_mb")
    found = {
        "commit": provenance.get("commit"),
        "date": provenance.get("date"),
        "seed": facts.get("seed"),
        "method": facts.get("method"),
        "parameters": f"{count:,}" if (count := (facts.get("model") or {}).get("parameters")) else None,
        "time": ", ".join(f"{duration(float(s))} to {what}" for what, s in seconds.items() if s is not None),
        "peak memory": f"{memory:,.0f} MB" if memory else None,
        "hardware": _words(provenance.get("hardware")),
        "threads": provenance.get("threads"),
        "precision": provenance.get("precision"),
        "versions": _words(provenance.get("versions")),
        "plug-ins": _words(facts.get("plugins")),
        "fingerprint": facts.get("fingerprint"),
        "training": "/".join(Path(train).parts[-2:]) if (train := facts.get("train_dir")) else None,
    }
    return [(name, str(value)) for name, value in found.items() if value not in (None, "")]


def _samples(datasets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The sets that are samples of an official split, judged by name and origin."""
    named = {name: f"{name} {facts.get('origin', '')}" for name, facts in datasets.items()}
    return [name for name, text in named.items() if re.search(r"(?:\b|_)sample(?:\b|_)", text)]


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return "" if value is None else str(value)


def write(eval_dir: Path) -> Path:
    """Write report.html and figures/ of one evaluated run.

    Arguments:
        eval_dir: A folder runs/eval/<experiment>/<hash> with record.json and results.csv; scores, reconstructions
            and training metrics are shown if they exist, and further images in figures/ at the end.

    Raises:
        UserError: a file of the record is missing or damaged.
    """
    facts = record.read_json(eval_dir / "record.json")
    config = grouping.read_config(eval_dir)
    rows = results.read(eval_dir / "results.csv")
    if not rows:
        raise UserError(f"{eval_dir / 'results.csv'} holds no row; evaluate this run again")
    cells = tables.aggregate(rows)
    try:
        inlier = next(name for name, about in facts["datasets"].items() if about["role"] == "inlier")
        method = facts["method"]
    except (KeyError, StopIteration, TypeError, AttributeError) as error:
        raise UserError(
            f"{eval_dir / 'record.json'} names no method or no inlier set; evaluate this run again"
        ) from error
    path = paper_numbers.find_paper(facts["paper"]) if facts.get("paper") else None
    paper = paper_numbers.read_paper(path) if path else []
    protocol = tables.main_protocol(cells)
    pairs = [cell for cell in cells if cell.out != cell.inlier]
    measured = {cell.metric for cell in cells}
    others = [(words, tables.pivot(cells, metric)) for metric, words in METRICS.items() if metric in measured]
    if protocol == "full" and any(cell.protocol == "balanced" for cell in pairs):
        others.insert(0, ("AUROC, equal numbers in and out", tables.pivot(pairs, "auroc", "balanced")))
    outs = list(dict.fromkeys(cell.out for cell in pairs))
    pictures = _pictures(eval_dir, facts, inlier)
    shown = locations.without_directories(facts)  # pages may be published: no paths of the machine
    html = render(
        "page.html",
        title=facts.get("experiment", eval_dir.parent.name),
        record=shown,
        smoke=config.get("smoke") == "True",
        inlier=inlier,
        extent=grouping.describe_test_sets(config, cells),
        verdict=verdict(cells, grouping.trained_against(config)),
        main=tables.pivot(pairs),
        usage=[(words, table) for metric, words in USAGE.items() if (table := tables.pivot(cells, metric)).lines],
        others=[(words, table) for words, table in others if table.lines],
        beside=paper_numbers.comparison(cells, paper, method),
        sampling=grouping.describe_samples(config),
        elsewhere=paper_numbers.other_methods(paper, inlier, outs, method),
        pictures=pictures,
        facts=_about(shown | {"train_dir": facts.get("train_dir")}),
        samples=_samples(facts["datasets"]),
    )
    write_text(eval_dir / "report.html", html)
    return eval_dir / "report.html"
