r"""Figures that compare several runs: AUROC over an option, matrices of correlations and of likelihood ratios,
reconstructions.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from oodgen.plots.style import BLUE, DASHES, GRID, INK, PALETTE, RC_PARAMS, RED, Array, add_legend, mosaic, panels
from oodgen.runs import escape

__all__ = ["auroc_over_option", "correlation_matrix", "likelihood_ratio_matrix", "reconstructions"]


def correlation_matrix(matrix: Sequence[Sequence[float]], names: Sequence[str], images: str) -> Figure:
    r"""A matrix of correlations in [0, 1] between the layers of two models, z_1 at the bottom left; dark is large.

    Arguments:
        matrix: Rows the layers of the first model, columns those of the second, lowest first; nan if undefined.
        names: Names of the two models.
        images: Name of the data set.

    Source: Havtorn et al. 2021, figure 2.
    """
    values = np.array(matrix, dtype=float)
    colours = LinearSegmentedColormap.from_list("alike", ["white", BLUE]).with_extremes(bad=GRID)
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(2.2 + 0.6 * values.shape[1], 1.4 + 0.5 * len(values)), layout="constrained")
        axis = figure.subplots()
        axis.imshow(values, cmap=colours, vmin=0, vmax=1, aspect="auto", origin="lower")
        for (i, j), value in np.ndenumerate(values):
            if not math.isnan(value):
                axis.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else INK)
        for side, label, count in (("y", names[0], values.shape[0]), ("x", names[1], values.shape[1])):
            getattr(axis, f"set_{side}ticks")(range(count), [f"z{i + 1}" for i in range(count)])
            getattr(axis, f"set_{side}label")(escape.plot(label))
        axis.set_title(escape.plot(f"on {images}"))
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        return figure


def auroc_over_option(
    outs: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]], key: str = "epoch", powers: bool = False
) -> Figure:
    """AUROC over the values of an option: a panel for each out set, a line for each score, a band of its sd over seeds.

    A variant of a score (its name and a further word) has the score's colour and is dashed.

    Arguments:
        outs: Out set -> score -> (value of the option, AUROC, sd or nan), in order of the values.
        key: The option's name.
        powers: Whether the axis of the option is logarithmic.
    """
    scores = list(dict.fromkeys(score for lines in outs.values() for score in lines))
    stems = list(dict.fromkeys(score.split(" ")[0] for score in scores))
    values = sorted({x for lines in outs.values() for points in lines.values() for x, *_ in points})
    with matplotlib.rc_context(RC_PARAMS):
        figure, axes = panels(len(outs), 2, 8.4 if len(outs) == 1 else 4.4, 2.9)
        for axis, (out, lines) in zip(axes, outs.items(), strict=False):
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
            axis.set(title=escape.plot(out), xlabel=escape.plot(key), ylabel="AUROC", ylim=(-0.02, 1.02))
            axis.grid(color=GRID, linewidth=0.6)
        return add_legend(figure, axes, len(outs))


def likelihood_ratio_matrix(values: Mapping[str, Mapping[str, float]]) -> Figure:
    r"""A matrix of ratios of mean log-likelihoods, a row for each model; orange below 1, blue above.

    Both means are negative, so that a ratio below 1 means that the column's test set has a larger likelihood than the
    row's training set.

    Arguments:
        values: Training set -> test set -> mean log-likelihood of the test set divided by that of the training set;
            nan if unknown.

    Source: Ran et al. 2021, figure 2b, with the ratio written as its caption needs it.
    """
    columns = list(dict.fromkeys([*values, *(name for row in values.values() for name in row)]))
    matrix = np.array([[row.get(name, math.nan) for name in columns] for row in values.values()])
    logs = np.log(matrix)
    reach = float(np.clip(np.nanmax(np.abs(logs), initial=0.0), math.log(1.1), math.log(3)))
    colours = LinearSegmentedColormap.from_list("around 1", [RED, "white", BLUE]).with_extremes(bad=GRID)
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(1.6 + 0.62 * len(columns), 1.0 + 0.42 * len(matrix)), layout="constrained")
        axis = figure.subplots()
        axis.imshow(logs, cmap=colours, vmin=-reach, vmax=reach, aspect="auto")
        for (i, j), value in np.ndenumerate(matrix):
            if not math.isnan(value):
                dark = abs(logs[i, j]) > 0.7 * reach
                words = f"{value:.2f}" if value < 100 else f"{value:.0f}"
                axis.text(j, i, words, ha="center", va="center", fontsize=8, color="white" if dark else INK)
        axis.set_xticks(
            range(len(columns)), list(map(escape.plot, columns)), rotation=35, ha="right", rotation_mode="anchor"
        )
        axis.set_yticks(range(len(matrix)), list(map(escape.plot, values)))
        axis.set(xlabel="test set", ylabel="trained on")
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        return figure


def reconstructions(sets: Mapping[str, tuple[Array, Mapping[str, Array]]]) -> Figure:
    """Reconstructions of the same images by several models: a panel for each set, with originals and a row per model.

    Arguments:
        sets: Data set -> originals (n, C, H, W) and, for each label, reconstructions of the same shape; uint8.

    Source: Ran et al. 2021, figure 4.
    """
    with matplotlib.rc_context(RC_PARAMS):
        figure, axes = panels(len(sets), 2, 4.8, 1.0)
        figure.set_layout_engine("compressed")  # "constrained" ignores the aspect ratio of images
        shapes = []
        for i, (axis, (name, (originals, made))) in enumerate(zip(axes, sets.items(), strict=False)):
            labels = ["" if i % 2 else label for label in ("x", *made)]
            shapes.append(mosaic(axis, np.stack([originals, *made.values()]), labels))
            axis.set_title(escape.plot(name))
        lines, words = math.ceil(len(sets) / 2), 0.08 * max(len(label) for _, made in sets.values() for label in made)
        figure.set_size_inches(words + 4.0 * min(2, len(sets)), lines * (4.0 * max(shapes) + 0.35))
        return add_legend(figure, axes, len(sets))
