r"""Figures: arrays in, a `matplotlib.figure.Figure` out, no global state.

One look for all of them: a data set has the same colour and dash in every figure of every run, the in-distribution set
is always the dark filled one. Backgrounds are white, so a dark page shows a figure on a light card.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from oodgen.files import whole

__all__ = ["curves", "densities", "progress", "reconstructions", "roc", "roc_points", "save", "style"]

Array = NDArray[Any]

INK, MUTED, GRID = "#22262b", "#6b7280", "#e5e7eb"

LOOK: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#9ca3af",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "figure.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "oodgen",
}

# Okabe and Ito's palette without its yellow, which is lost on white; wine and olive are Tol's.
BLUE, RED, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
AMBER, SKY, WINE, OLIVE = "#E69F00", "#56B4E9", "#882255", "#999933"
PALETTE = (BLUE, RED, GREEN, PINK, AMBER, SKY, WINE, OLIVE)
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))

# Sets that meet in one experiment look different; a set and its variant share a colour and differ in the dash.
_KNOWN: dict[str, tuple[str, int]] = {
    "digits": (BLUE, 0),
    "glyphs": (RED, 0),
    "photos": (AMBER, 2),
    "mnist": (BLUE, 0),
    "kmnist": (RED, 0),
    "omniglot": (GREEN, 0),
    "omniglot_inverted": (GREEN, 1),
    "notmnist": (PINK, 0),
    "fashion_mnist": (AMBER, 0),
    "emnist_letters": (AMBER, 1),
    "smallnorb": (WINE, 0),
    "smallnorb_inverted": (WINE, 1),
    "uniform_noise": (SKY, 0),
    "gaussian_noise": (SKY, 1),
    "hflip": (OLIVE, 0),
    "vflip": (OLIVE, 1),
    "adversarial": (WINE, 2),
    "svhn": (BLUE, 0),
    "cifar10": (RED, 0),
    "gtsrb": (GREEN, 0),
    "celeba": (PINK, 0),
    "places365": (AMBER, 0),
    "flowers102": (WINE, 0),
    "lfw": (PINK, 1),
    "imagenet32": (RED, 1),
}


def style(name: str) -> tuple[str, Any]:
    """Colour and dash of an out set: fixed for known names, a function of the name for others."""
    if name in _KNOWN:
        colour, dash = _KNOWN[name]
        return colour, DASHES[dash]
    digest = hashlib.blake2b(name.encode(), digest_size=2).digest()
    return PALETTE[digest[0] % len(PALETTE)], DASHES[digest[1] % len(DASHES)]


def _panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns, height * rows + 0.45), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _finish(figure: Figure, axes: list[Axes], used: int) -> Figure:
    for spare in axes[used:]:
        spare.set_visible(False)
    handles: dict[str, Any] = {}
    for axis in axes[:used]:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        columns = max(1, min(len(handles), int(figure.get_figwidth() / 1.35)))
        figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=columns, handlelength=2.2)
    return figure


def _finite(values: Array) -> Array:
    values = np.asarray(values, dtype=np.float64).ravel()
    return values[np.isfinite(values)]


def roc_points(inlier: Array, out: Array, points: int = 300) -> tuple[Array, Array]:
    """False and true positive rates: an example is called out when its score reaches the threshold.

    Of more thresholds than `points`, those are kept that are evenly spread along the curve's length, so that steep and
    flat parts keep their corners: a curve of ten thousand steps is a hundred kilobytes that nobody can see.
    """
    scores = np.concatenate([inlier, out])
    positive = np.concatenate([np.zeros(len(inlier)), np.ones(len(out))])
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    last = np.append(scores[1:] != scores[:-1], True)
    true, false = np.cumsum(positive)[last], np.cumsum(1 - positive)[last]
    x, y = np.append(0.0, false / len(inlier)), np.append(0.0, true / len(out))
    length = np.cumsum(np.append(0.0, np.abs(np.diff(x)) + np.abs(np.diff(y))))
    spread = np.searchsorted(length, np.linspace(0, length[-1], points)).clip(0, len(x) - 1)
    keep = np.arange(len(x)) if len(x) <= points else np.unique(np.append(spread, len(x) - 1))
    return x[keep], y[keep]


def roc(scores: Mapping[str, Mapping[str, Array]], inlier: str) -> Figure:
    """ROC curves: a panel for each score, a curve for each out set.

    Arguments:
        scores: score name -> data set -> (N,) scores, larger = more OOD.
        inlier: Name of the in-distribution set.
    """
    with matplotlib.rc_context(LOOK):
        figure, axes = _panels(len(scores), 4, 2.4, 2.75)
        for axis, (score, sets) in zip(axes, scores.items(), strict=False):
            axis.plot([0, 1], [0, 1], color="#c4c8ce", linewidth=0.8, zorder=0)
            for name, values in sets.items():
                if name != inlier and len(_finite(values)):
                    colour, dash = style(name)
                    axis.plot(
                        *roc_points(_finite(sets[inlier]), _finite(values)), color=colour, linestyle=dash, label=name
                    )
            axis.set(title=score, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), box_aspect=1)
            axis.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], xlabel="false positive rate")
            axis.grid(color=GRID, linewidth=0.6)
        axes[0].set_ylabel("true positive rate")
        return _finish(figure, axes, len(scores))


def _window(sets: Mapping[str, Array], inlier: str) -> tuple[float, float, list[str]]:
    """The range to draw, and the sets too far away to share it: those would squeeze the others into one spike."""
    centre, spread = np.median(sets[inlier]), np.subtract(*np.quantile(sets[inlier], [0.95, 0.05]))
    reach = 12 * max(spread, 1e-12)
    far = [n for n, v in sets.items() if n != inlier and abs(np.median(v) - centre) > reach]
    near = [v for n, v in sets.items() if n not in far]
    low = max(min(np.quantile(v, 0.005) for v in near), centre - reach)
    high = min(max(np.quantile(v, 0.995) for v in near), centre + reach)
    pad = 0.06 * max(high - low, 1e-12)
    return float(low - pad), float(high + pad), far


def _density(values: Array, low: float, high: float, bins: int = 240) -> tuple[Array, Array]:
    """A fine histogram smoothed with a Gaussian kernel of Silverman's width."""
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    step = edges[1] - edges[0]
    spread = min(values.std(), np.subtract(*np.quantile(values, [0.75, 0.25])) / 1.34) or values.std()
    width = max(0.9 * spread * len(values) ** -0.2 / step, 1.0)
    grid = np.arange(-math.ceil(4 * width), math.ceil(4 * width) + 1)
    kernel = np.exp(-0.5 * (grid / width) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), mode="full")[len(grid) // 2 :][:bins]
    return (edges[1:] + edges[:-1]) / 2, smooth / (len(values) * step)


def densities(scores: Mapping[str, Mapping[str, Array]], inlier: str) -> Figure:
    """Densities of the scores: a panel for each score, the in-distribution set filled.

    A set far outside the others' range is named at that edge with its median, instead of squeezing the rest.

    Arguments:
        scores: score name -> data set -> (N,) scores, larger = more OOD.
        inlier: Name of the in-distribution set.
    """
    with matplotlib.rc_context(LOOK):
        figure, axes = _panels(len(scores), 2, 4.8, 2.15)
        for axis, (score, sets) in zip(axes, scores.items(), strict=False):
            clean = {name: v for name, values in sets.items() if len(v := _finite(values))}
            low, high, far = _window(clean, inlier)
            tops = []
            for name, values in clean.items():
                if name in far:
                    continue
                x, y = _density(values, low, high)
                tops.append(y.max())
                if name == inlier:
                    axis.fill_between(x, y, color=INK, alpha=0.16, linewidth=0)
                    axis.plot(x, y, color=INK, label=f"{name} (in)", zorder=3)
                else:
                    colour, dash = style(name)
                    axis.plot(x, y, color=colour, linestyle=dash, label=name)
            _edges(axis, {name: float(np.median(clean[name])) for name in far}, low, high)
            # a set of nearly equal scores must not flatten all others
            top = (1.08 + 0.12 * len(far)) * min(max(tops), 4 * np.median(tops))
            axis.set(title=score, xlim=(low, high), yticks=[], ylim=(0, top))
            axis.spines["left"].set_visible(False)
        return _finish(figure, axes, len(scores))


def _edges(axis: Axes, far: Mapping[str, float], low: float, high: float) -> None:
    for i, (name, median) in enumerate(far.items()):
        side = "left" if median < low else "right"
        words = f"{name}, {median:,.0f}" if abs(median) >= 100 else f"{name}, {median:.3g}"
        text, x = (f"← {words}", 0.005) if side == "left" else (f"{words} →", 0.995)
        axis.text(
            x, 0.99 - 0.09 * i, text, color=style(name)[0], ha=side, va="top", fontsize=8, transform=axis.transAxes
        )


def reconstructions(images: Array, title: str = "") -> Figure:
    """Originals and their reconstructions from z_{>k}, a row for each k.

    Arguments:
        images: (1 + L, n, C, H, W), uint8; row 0 the originals, row 1 + k decoded from the levels above k.
        title: Shown above, e.g. the data set's name.
    """
    rows, count, channels, height, width = images.shape
    gap = max(1, width // 14)
    canvas = np.full((rows * (height + gap) - gap, count * (width + gap) - gap, channels), 255, dtype=np.uint8)
    for i in range(rows):
        for j in range(count):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = images[i, j].transpose(1, 2, 0)
    with matplotlib.rc_context(LOOK):
        shape = canvas.shape[0] / canvas.shape[1]
        figure = Figure(figsize=(4.8, 4.8 * 0.9 * shape + (0.35 if title else 0.1)), layout="constrained")
        axis = figure.subplots()
        axis.imshow(canvas if channels == 3 else canvas[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_yticks([i * (height + gap) + height / 2 for i in range(rows)])
        axis.set_yticklabels(["x", *(f"z>{k}" for k in range(rows - 1))])
        axis.set(xticks=[], title=title)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        return figure


def curves(metrics: Mapping[str, Array]) -> Figure | None:
    """Training curves from the columns of metrics.csv; None where no known column holds a number.

    Arguments:
        metrics: column -> (rows,) with nan for gaps: step, train/bound, val/bound, train/kl_* (nats), beta.
    """
    filled = {name: v for name, values in metrics.items() if np.isfinite(v := np.asarray(values, dtype=float)).any()}
    if "step" not in filled:
        return None
    bounds = [(n, c, w) for n, c, w in (("train/bound", "#9ca3af", 1.0), ("val/bound", INK, 1.6)) if n in filled]
    kls = sorted(name for name in filled if name.startswith("train/kl_"))
    panels = [
        p
        for p in ("bound", "KL of each level", "warm-up")
        if {"bound": bounds, "KL of each level": kls}.get(p, "beta" in filled)
    ]
    if not panels:
        return None
    with matplotlib.rc_context(LOOK):
        figure, axes = _panels(len(panels), 3, 3.2, 2.2)
        for axis, panel in zip(axes, panels, strict=False):
            if panel == "bound":
                for name, colour, width in bounds:
                    _curve(axis, filled, name, colour, width)
                _settled(axis, [filled[name] for name, _, _ in bounds])
            elif panel == "warm-up":
                _curve(axis, filled, "beta", BLUE, 1.5)
            else:
                for name, colour in zip(kls, PALETTE * len(kls), strict=False):
                    _curve(axis, filled, name, colour, 1.2)
            unit = "beta" if panel == "warm-up" else "nats"
            axis.set(title=panel, xlabel="step", ylabel=unit)
            axis.grid(color=GRID, linewidth=0.6)
            axis.locator_params(axis="x", nbins=5)
        return _finish(figure, axes, len(panels))


def _curve(axis: Axes, metrics: Mapping[str, Array], name: str, colour: str, width: float) -> None:
    keep = np.isfinite(metrics[name]) & np.isfinite(metrics["step"])
    label = name.replace("train/kl_", "KL ").replace("/bound", " bound")
    axis.plot(metrics["step"][keep], metrics[name][keep], color=colour, linewidth=width, label=label)


def _settled(axis: Axes, series: Sequence[Array]) -> None:
    """Limits that leave out the first moments, when a bound falls from far below and hides all that follows."""
    late = np.concatenate([(v := values[np.isfinite(values)])[len(v) // 10 :] for values in series])
    low, high = np.quantile(late, [0.02, 1.0])
    pad = 0.08 * max(high - low, 1e-9)
    axis.set_ylim(low - pad, high + pad)


def progress(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]], key: str = "epoch", powers: bool = False
) -> Figure:
    """AUROC against an option: a panel for each out set, a line for each score, its sd over seeds as a band.

    A variant, a score's name and a further word, has that score's colour and is dashed.

    Arguments:
        panels: Out set -> score -> (value of the option, AUROC, sd or nan), in order of the values.
        key: The option's name.
        powers: Whether the option's axis is logarithmic.
    """
    scores = list(dict.fromkeys(score for lines in panels.values() for score in lines))
    stems = list(dict.fromkeys(score.split(" ")[0] for score in scores))
    values = sorted({x for lines in panels.values() for points in lines.values() for x, *_ in points})
    with matplotlib.rc_context(LOOK):
        figure, axes = _panels(len(panels), 2, 8.4 if len(panels) == 1 else 4.4, 2.9)
        for axis, (out, lines) in zip(axes, panels.items(), strict=False):
            axis.axhline(0.5, color="#c4c8ce", linewidth=0.8, zorder=0)
            for score, points in lines.items():
                x, y, sd = np.array(points, dtype=float).T
                stem, _, variant = score.partition(" ")
                colour, dash = PALETTE[stems.index(stem) % len(PALETTE)], DASHES[1 if variant else 0]
                axis.plot(x, y, color=colour, linestyle=dash, marker="o", markersize=3, label=score)
                if np.isfinite(sd).any():
                    axis.fill_between(x, y - np.nan_to_num(sd), y + np.nan_to_num(sd), color=colour, alpha=0.12, lw=0)
            if powers:
                axis.set_xscale("log")
            if len(values) <= 12:
                axis.set_xticks(values, [f"{value:g}" for value in values])
                axis.minorticks_off()
            axis.set(title=out, xlabel=key, ylabel="AUROC", ylim=(-0.02, 1.02))
            axis.grid(color=GRID, linewidth=0.6)
        return _finish(figure, axes, len(panels))


def save(figure: Figure, path: Path) -> Path:
    """Write a figure whole or not at all; the suffix, .svg or .png, is the format."""
    kind = path.suffix.removeprefix(".")
    with matplotlib.rc_context(LOOK), whole(path) as temporary:
        # without a date the same numbers give the same file
        figure.savefig(temporary, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    return path
