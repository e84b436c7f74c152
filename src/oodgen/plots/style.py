"""Style of all figures: colours and dashes, panels, a common legend, grids of images, files.

A data set has the same colour and dash in every figure; the in-distribution set is dark and filled. Backgrounds are
white.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from oodgen.runs import escape
from oodgen.runs.files import atomic_path

__all__ = [
    "BLUE",
    "DASHES",
    "GRID",
    "INK",
    "PALETTE",
    "RC_PARAMS",
    "RED",
    "Array",
    "add_legend",
    "line_style",
    "mosaic",
    "panels",
    "save",
]

Array = NDArray[Any]

INK, MUTED, GRID = "#22262b", "#6b7280", "#e5e7eb"

RC_PARAMS: dict[Any, Any] = {
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

# The palette of Okabe and Ito without yellow; wine and olive are from Tol's.
BLUE, RED, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
AMBER, SKY, WINE, OLIVE = "#E69F00", "#56B4E9", "#882255", "#999933"
PALETTE = (BLUE, RED, GREEN, PINK, AMBER, SKY, WINE, OLIVE)
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))

# Sets of one experiment have different styles; a set and its variant share the colour and differ in the dash.
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
    "svhn": (BLUE, 1),
    "cifar10": (RED, 1),
    "gtsrb": (GREEN, 1),
    "celeba": (PINK, 0),
    "places365": (AMBER, 0),
    "flowers102": (WINE, 0),
    "lfw": (PINK, 1),
    "imagenet32": (RED, 2),
}


def line_style(name: str) -> tuple[str, Any]:
    """Colour and dash of an out set: fixed for known names, a function of the name for others."""
    if name in _KNOWN:
        colour, dash = _KNOWN[name]
        return colour, DASHES[dash]
    digest = hashlib.blake2b(name.encode(), digest_size=2).digest()
    return PALETTE[digest[0] % len(PALETTE)], DASHES[digest[1] % len(DASHES)]


def panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with at least `count` panels of `width` x `height` inches, and its axes."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns, height * rows + 0.45), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def add_legend(figure: Figure, axes: list[Axes], used: int) -> Figure:
    """Hide the axes after the first `used`, and add a common legend below the panels."""
    for spare in axes[used:]:
        spare.set_visible(False)
    handles: dict[str, Any] = {}
    for axis in axes[:used]:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(escape.plot(label), handle)
    if handles:
        columns = max(1, min(len(handles), int(figure.get_figwidth() / 1.35)))
        figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=columns, handlelength=2.2)
    return figure


def mosaic(axis: Axes, images: Array, labels: Sequence[str]) -> float:
    """Draw a grid of images; returns its ratio of height to width.

    Arguments:
        axis: Where to draw.
        images: (rows, n, C, H, W), uint8.
        labels: Label of each row.
    """
    rows, count, channels, height, width = images.shape
    gap = max(1, width // 14)
    canvas = np.full((rows * (height + gap) - gap, count * (width + gap) - gap, channels), 255, dtype=np.uint8)
    for i in range(rows):
        for j in range(count):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = images[i, j].transpose(1, 2, 0)
    axis.imshow(canvas if channels == 3 else canvas[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_yticks([i * (height + gap) + height / 2 for i in range(rows)], list(map(escape.plot, labels)))
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return canvas.shape[0] / canvas.shape[1]


def save(figure: Figure, path: Path) -> Path:
    """Write a figure atomically; the suffix, .svg or .png, is the format."""
    kind = path.suffix.removeprefix(".")
    with matplotlib.rc_context(RC_PARAMS), atomic_path(path) as temporary:
        # without a date, so that files are reproducible
        figure.savefig(temporary, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    return path
