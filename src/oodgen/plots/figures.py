r"""The figures of one run: functions from arrays to a `matplotlib.figure.Figure`, without global state."""

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from oodgen.plots.style import BLUE, GRID, INK, PALETTE, RC_PARAMS, Array, add_legend, line_style, mosaic, panels
from oodgen.runs import escape

__all__ = ["curves", "densities", "likelihoods", "reconstructions", "roc", "roc_points"]


def _finite(values: Array) -> Array:
    values = _ranked(values)
    return values[np.isfinite(values)]


def _ranked(values: Array) -> Array:
    values = np.asarray(values, dtype=np.float64).ravel()
    return values[~np.isnan(values)]


def roc_points(inlier: Array, out: Array, points: int = 300) -> tuple[Array, Array]:
    """False and true positive rates of the ROC curve.

    Of more than `points` thresholds those are kept that are evenly spaced along the curve, to limit the file size.
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
    with matplotlib.rc_context(RC_PARAMS):
        figure, axes = panels(len(scores), 4, 2.4, 2.75)
        for axis, (score, sets) in zip(axes, scores.items(), strict=False):
            axis.plot([0, 1], [0, 1], color="#c4c8ce", linewidth=0.8, zorder=0)
            for name, values in sets.items():
                if name != inlier and len(_ranked(values)):
                    colour, dash = line_style(name)
                    axis.plot(
                        *roc_points(_ranked(sets[inlier]), _ranked(values)), color=colour, linestyle=dash, label=name
                    )
            axis.set(title=escape.plot(score), xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), box_aspect=1)
            axis.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], xlabel="false positive rate")
            axis.grid(color=GRID, linewidth=0.6)
        axes[0].set_ylabel("true positive rate")
        return add_legend(figure, axes, len(scores))


def _window(sets: Mapping[str, Array], inlier: str) -> tuple[float, float, list[str]]:
    """The range of the axis, and the sets too far away to be drawn in it."""
    centre, spread = np.median(sets[inlier]), np.subtract(*np.quantile(sets[inlier], [0.95, 0.05]))
    least = 1e-12 + 1e-9 * abs(centre)  # the least width that float64 can divide into bins
    reach = 12 * max(spread, least)
    far = [n for n, v in sets.items() if n != inlier and abs(np.median(v) - centre) > reach]
    near = [v for n, v in sets.items() if n not in far]
    low = max(min(np.quantile(v, 0.005) for v in near), centre - reach)
    high = min(max(np.quantile(v, 0.995) for v in near), centre + reach)
    pad = 0.06 * max(high - low, least)
    return float(low - pad), float(high + pad), far


def _density(values: Array, low: float, high: float, bins: int = 240) -> tuple[Array, Array]:
    """Kernel density estimate: a fine histogram smoothed by a Gaussian kernel with Silverman's bandwidth."""
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

    A set far outside of the others' range is only named at that edge, with its median.

    Arguments:
        scores: score name -> data set -> (N,) scores, larger = more OOD.
        inlier: Name of the in-distribution set.
    """
    with matplotlib.rc_context(RC_PARAMS):
        figure, axes = panels(len(scores), 2, 4.8, 2.15)
        for axis, (score, sets) in zip(axes, scores.items(), strict=False):
            clean = {name: v for name, values in sets.items() if len(v := _finite(values))}
            low, high, far = _window(clean, inlier)
            tops = []
            for name, values in clean.items():
                if name in far:
                    continue
                x, y = _density(values, low, high)
                tops.append(y.max())
                _outline(axis, x, y, name, "in" if name == inlier else "")
            _edges(axis, {name: float(np.median(clean[name])) for name in far}, low, high)
            # sets of nearly equal scores have a very high peak
            top = (1.08 + 0.12 * len(far)) * min(max(tops), 4 * np.median(tops))
            axis.set(title=escape.plot(score), xlim=(low, high), yticks=[], ylim=(0, top))
            axis.spines["left"].set_visible(False)
        return add_legend(figure, axes, len(scores))


def _outline(axis: Axes, x: Array, y: Array, name: str, word: str) -> None:
    """Draw a set's density in its style; filled, dark and with `word` in the legend if one is given."""
    if word:
        axis.fill_between(x, y, color=INK, alpha=0.16, linewidth=0)
        axis.plot(x, y, color=INK, label=f"{name} ({word})", zorder=3)
    else:
        colour, dash = line_style(name)
        axis.plot(x, y, color=colour, linestyle=dash, label=name)


def _edges(axis: Axes, far: Mapping[str, float], low: float, high: float) -> None:
    for i, (name, median) in enumerate(far.items()):
        side = "left" if median < low else "right"
        words = f"{name}, {median:,.0f}" if abs(median) >= 100 else f"{name}, {median:.3g}"
        text, x = (f"← {words}", 0.005) if side == "left" else (f"{words} →", 0.995)
        axis.text(
            x,
            0.99 - 0.09 * i,
            escape.plot(text),
            color=line_style(name)[0],
            ha=side,
            va="top",
            fontsize=8,
            transform=axis.transAxes,
        )


def likelihoods(sets: Mapping[str, Array], filled: str, word: str = "in") -> Figure:
    r"""Densities of $\log p(x)$ of several sets on one axis; one set is filled.

    The axis is $\sinh^{-1}(x / w)$ with w the width of the filled set: linear around 0, logarithmic far from it. The
    densities are those of the transformed values, so that areas are proportions of examples.

    Arguments:
        sets: Data set -> (N,) log-likelihoods, nats.
        filled: Name of the set that the others are compared with.
        word: Its label in the legend, e.g. "in".

    Source: Ran et al. 2021, figures 1, 2a, 5, 6 and 8.
    """
    clean = {name: v for name, values in sets.items() if len(v := _finite(values))}
    width = max(float(np.subtract(*np.quantile(clean[filled], [0.99, 0.01]))), 1e-9)
    drawn = {name: np.arcsinh(values / width) for name, values in clean.items()}
    low, high = (end(np.quantile(u, q) for u in drawn.values()) for end, q in ((min, 0.002), (max, 0.998)))
    pad = 0.03 * max(high - low, 1e-9)
    with matplotlib.rc_context(RC_PARAMS):
        figure, axes = panels(1, 1, 9.6, 2.6)
        (axis,) = axes
        tops = []
        for name, values in drawn.items():
            u, y = _density(values, low - pad, high + pad, 480)
            x, y = width * np.sinh(u), np.where(y > 1e-3 * y.max(), y, np.nan)
            tops.append(np.nanmax(y))
            _outline(axis, x, y, name, word if name == filled else "")
        axis.set_xscale("asinh", linear_width=width)
        axis.set(xlim=width * np.sinh([low - pad, high + pad]), yticks=[], xlabel="log p(x), nats")
        ticks = _round_numbers(width, low - pad, high + pad)
        axis.set_xticks(ticks, [f"{x:,.4g}" if abs(x) < 1e4 else f"{x:,.0f}" for x in ticks], minor=False)
        axis.minorticks_off()
        axis.set_ylim(0, 1.08 * min(max(tops), 4 * np.median(tops)))
        axis.spines["left"].set_visible(False)
        return add_legend(figure, axes, 1)


def _round_numbers(width: float, low: float, high: float) -> list[float]:
    r"""Ticks for the axis $u = \sinh^{-1}(x / w)$ between u = `low` and `high`, without overlap."""
    ends = width * np.sinh([low, high])
    tens = 10.0 ** np.arange(-2, 1 + math.ceil(math.log10(max(*np.abs(ends), 1.0))))
    numbers = np.concatenate(
        [np.outer([-5, -2, -1, 1, 2, 5], tens).ravel(), MaxNLocator(10, steps=[1, 2, 5, 10]).tick_values(*ends)]
    )
    found: list[float] = []
    for x in sorted(set(numbers.tolist()), key=abs):
        u = np.arcsinh(x / width)
        if low <= u <= high and all(abs(u - np.arcsinh(y / width)) > 0.06 * (high - low) for y in found):
            found.append(x)
    return found


def reconstructions(images: Array, title: str = "") -> Figure:
    """Originals and their reconstructions from z_{>k}, a row for each k.

    Arguments:
        images: (1 + L, n, C, H, W), uint8; row 0 the originals, row 1 + k decoded from the levels above k.
        title: The title, e.g. the data set's name.
    """
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(layout="constrained")
        axis = figure.subplots()
        shape = mosaic(axis, images, ["x", *(f"z>{k}" for k in range(len(images) - 1))])
        axis.set_title(escape.plot(title))
        figure.set_size_inches(4.8, 4.8 * 0.9 * shape + (0.35 if title else 0.1))
        return figure


def curves(metrics: Mapping[str, Array]) -> Figure | None:
    """Training curves from the columns of metrics.csv; None if no known column has a number.

    Arguments:
        metrics: column -> (rows,) with nan for gaps: step, train/bound, val/bound, train/kl_* (nats), beta; or
            train/ and val/ of log_py (nats) or critic_gap instead of the bound.
    """
    filled = {name: v for name, values in metrics.items() if np.isfinite(v := np.asarray(values, dtype=float)).any()}
    if "step" not in filled:
        return None
    styles = (("train", "#9ca3af", 1.0), ("val", INK, 1.6))
    lines = {
        what: [(name, c, w) for part, c, w in styles if (name := f"{part}/{term}") in filled]
        for what, term in (("bound", "bound"), ("log p(y|x)", "log_py"), ("critic gap", "critic_gap"))
    }
    kls = sorted(name for name in filled if name.startswith("train/kl_"))
    shown = [
        p
        for p in (*lines, "KL of each level", "warm-up")
        if {**lines, "KL of each level": kls}.get(p, "beta" in filled)
    ]
    if not shown:
        return None
    with matplotlib.rc_context(RC_PARAMS):
        figure, axes = panels(len(shown), 3, 3.2, 2.2)
        for axis, panel in zip(axes, shown, strict=False):
            if panel in lines:
                for name, colour, width in lines[panel]:
                    _curve(axis, filled, name, colour, width)
                _settled(axis, [filled[name] for name, _, _ in lines[panel]])
            elif panel == "warm-up":
                _curve(axis, filled, "beta", BLUE, 1.5)
            else:
                for name, colour in zip(kls, PALETTE * len(kls), strict=False):
                    _curve(axis, filled, name, colour, 1.2)
            unit = {"warm-up": "beta", "critic gap": "D(x) - D(G(z))"}.get(panel, "nats")
            axis.set(title=panel, xlabel="step", ylabel=unit)
            axis.grid(color=GRID, linewidth=0.6)
            axis.locator_params(axis="x", nbins=5)
        return add_legend(figure, axes, len(shown))


def _curve(axis: Axes, metrics: Mapping[str, Array], name: str, colour: str, width: float) -> None:
    keep = np.isfinite(metrics[name]) & np.isfinite(metrics["step"])
    label = name.replace("train/kl_", "KL ").replace("/", " ").replace("_", " ")
    axis.plot(metrics["step"][keep], metrics[name][keep], color=colour, linewidth=width, label=label)


def _settled(axis: Axes, series: Sequence[Array]) -> None:
    """Set limits that ignore the first tenth of the curves, where a bound is far from its later values."""
    late = np.concatenate([(v := values[np.isfinite(values)])[len(v) // 10 :] for values in series])
    low, high = np.quantile(late, [0.02, 1.0])
    pad = 0.08 * max(high - low, 1e-9)
    axis.set_ylim(low - pad, high + pad)
