"""`oodgen layer-correlation RUN RUN --out FILE`: correlation of two models' codes."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodgen.config.stored import read_run
from oodgen.errors import UserError
from oodgen.papers import reconstructions
from oodgen.runs.escape import terminal
from oodgen.runs.invocation import check_ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["correlation", "main", "posterior_means"]

ROWS = 1024  # features of one layer per chunk, to limit memory


def correlation(a: "Tensor", b: "Tensor") -> float:
    r"""The mean best absolute correlation between the features of two layers, in [0, 1].

    $$\frac12 \Big[ \frac1{d_a} \sum_i \max_j |r_{ij}| + \frac1{d_b} \sum_j \max_i |r_{ij}| \Big]$$

    with $r_{ij}$ Pearson's correlation of feature i of the one with feature j of the other over the same N images. The
    order and sign of features are arbitrary, so each is compared with its best match. For d independent features the
    value is not 0 but about $\sqrt{2 \ln d / N}$. Constant features are ignored; if all are constant the value is nan.

    Arguments:
        a, b: Features of the same images, (N, d_a) and (N, d_b), N > 2.

    Source: Havtorn et al. 2021, figure 2 (absolute correlations of the features of two HVAEs), summarised.
    """
    import torch

    parts = []
    for x in (a, b):
        x = x.double() - x.double().mean(0)
        norm = x.norm(dim=0)
        moves = norm > 1e-9 * (1 + x.abs().max())
        parts.append(x[:, moves] / norm[moves])
    if not all(part.shape[1] for part in parts):
        return float("nan")
    first, second = parts
    best, best_of_second = [], first.new_zeros(second.shape[1])
    for some in first.split(ROWS, 1):
        r = (some.T @ second).abs()
        best.append(r.amax(1))
        best_of_second = torch.maximum(best_of_second, r.amax(0))
    return float(torch.stack([torch.cat(best).mean(), best_of_second.mean()]).mean())


def posterior_means(run: Path, x: Any) -> "list[Tensor]":
    """The posterior means of each layer of a finished run's model, (N, d), of stored images x (N, C, H, W).

    Raises:
        UserError: the run is not finished, its model has no posteriors, or it takes images of another shape.
    """
    import torch

    from oodgen.detector import Detector
    from oodgen.models.density import HierarchyWithPosteriors
    from oodgen.noise import ExampleNoise

    found = Detector.load(run)
    model = found.model
    if not isinstance(model, HierarchyWithPosteriors):
        raise UserError(
            f"{run} holds a {type(model).__name__}, which has no posteriors; give runs of hierarchical VAEs"
        )
    if tuple(x.shape[1:]) != tuple(model.shape):  # type: ignore[attr-defined, arg-type]
        raise UserError(f"{run} takes images of {tuple(model.shape)}, not of {tuple(x.shape[1:])}")  # type: ignore[attr-defined, arg-type]
    parts: list[list[Tensor]] = []
    with torch.inference_mode(), found.device.autocast():
        for index in torch.arange(len(x)).split(100):
            batch = torch.as_tensor(x[index.numpy()]).to(found.device.torch)
            q = model.posteriors(model.observe(batch, ExampleNoise(found.seed, index)))
            parts.append([layer.mean[0].flatten(1).cpu() for layer in q])
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def _images(run: Path, name: str | None, count: int, trust: bool) -> "NDArray[Any]":
    """The first test images of a set of a run, by default of its inlier set.

    Its config names folders. They are read only if `trust`, or below our own data root, which stands in for the run's:
    what is read is also copied, decoded, into the root.
    """
    from oodgen.config.instantiate import build
    from oodgen.data.module import OODDataModule

    config = read_run(run).config["data"]
    if not trust:
        config = config | {"root": os.environ.get("OODGEN_DATA", "data")}
        home = os.path.realpath(config["root"])
        for place in _roots(config):
            if place.startswith("~") or not Path(os.path.realpath(place)).is_relative_to(home):
                raise UserError(f"{run} reads images in {place}, outside of the data root {home}; --trust allows it")
    data: OODDataModule = build(config, "data")
    sets = data.test_sets()
    if name is not None and name not in sets:
        raise UserError(f"{run} has no set {name}; it has: {', '.join(sets)}")
    return sets[name or data.inlier.name].x[:count]


def _roots(config: Any) -> Iterator[str]:
    """Every `root` in a config of data."""
    if isinstance(config, dict) and "root" in config:
        yield str(config["root"])
    for part in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from _roots(part)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="oodgen layer-correlation",
        description="Plot the correlation of the codes of two models' layers on the same images.",
    )
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="an evaluation's folder, runs/eval/NAME/HASH")
    parser.add_argument("--set", metavar="SET", help="a test set of the first run (default: its inliers)")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="number of images (default: 1000)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a file .png or .svg")
    parser.add_argument("--trust", action="store_true", help="use any folder that the first run's config names")
    options = parser.parse_args(arguments)
    try:
        if options.out.suffix not in (".png", ".svg"):
            raise UserError(f"{options.out} does not end in .png or .svg; change --out")
        check_ranges(options, count=(3, 1_000_000))
        names, folders = zip(*reconstructions.labels(options.runs).items(), strict=True)
        x = _images(folders[0], options.set, options.count, options.trust)
        first, second = (posterior_means(folder, x) for folder in folders)
        matrix = [[correlation(a, b) for b in second] for a in first]
        from oodgen.plots import comparisons, style

        print(style.save(comparisons.correlation_matrix(matrix, names, options.set or "its inliers"), options.out))
    except UserError as error:
        print(f"oodgen: {terminal(error)}", file=sys.stderr)
        return 2
    return 0
