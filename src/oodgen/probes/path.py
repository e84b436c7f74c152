r"""The likelihood path: residuals of reconstructions and sizes of codes, from posterior means without sampling."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from oodgen.models.density import HierarchyWithPosteriors
from oodgen.noise import ExampleNoise, MedianNoise
from oodgen.probes.probe import Evidence

__all__ = ["Path", "local_residuals"]

NORMS = {"l2": 2, "l8": 8, "l05": 0.5}
QUANTILES = (0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Path:
    r"""Norms of the residuals $r_k = x - \hat x_k$, k = 0..L-1, and of the posterior means and scales of each layer.

    $\hat x_k = \mathbb E[x | z]$ where $z_{>k}$ are the posterior means and $z_{\le k}$ the means of
    $p(z_{\le k} | z_{>k})$, each layer given the means of those before it: nothing is random but `observe`. x are the
    stored pixels on [0, 1], not their binarisation, or the columns of rows.

    Evidence, in units of x:
    * `l2`, `l8`, `l05` (L, N): $\|r_k\|_p = (\sum_i |r_{k,i}|^p)^{1/p}$ for p = 2, 8 (peaks) and 1/2 (width).
    * `tv` (L, N), images only: $\sum |r_{k,h+1,w} - r_{k,h,w}| + \sum |r_{k,h,w+1} - r_{k,h,w}|$.
    * `local` (3, N), images only: see `local_residuals`, of $r_0$.

    And in units of the code, layers i = 1..L:
    * `mean`, `scale` (L, N): $\|\mu_i\|_2$ and $\|\sigma_i\|_2$ of the posterior.
    * `log_scale` (L, N): $\sum_j \log \sigma_{ij}$, in nats, the posterior's entropy up to a constant.

    Source: Huang, He, Lui 2024 (arXiv:2401.04933), whose statistics of a VAE are `l2`, `mean` and `scale`, other norms
        as variants; the levels k > 0, `tv`, `log_scale` and `local` are ours.
    """

    needs = HierarchyWithPosteriors

    def batch(self, model: HierarchyWithPosteriors) -> int:
        return 100

    def __call__(self, model: HierarchyWithPosteriors, x: Tensor, noise: ExampleNoise) -> Evidence:
        images, y = x.ndim == 4, model.observe(x, noise)
        # float64, in which an eighth power does not overflow
        target = x.double() / 255 if images else x.double()
        residuals = torch.stack([target - model.reconstruct(y, MedianNoise(), k) for k in range(model.depth)])
        codes = [(q.mean[0].flatten(1).double(), q.stddev[0].flatten(1).double()) for q in model.posteriors(y)]
        evidence = {name: torch.linalg.vector_norm(residuals.flatten(2), p, dim=2) for name, p in NORMS.items()}
        evidence |= {
            "mean": torch.stack([mean.norm(dim=1) for mean, _ in codes]),
            "scale": torch.stack([scale.norm(dim=1) for _, scale in codes]),
            "log_scale": torch.stack([scale.log().sum(1) for _, scale in codes]),
        }
        if images:
            steps = [residuals.diff(dim=axis).abs().flatten(2).sum(2) for axis in (3, 4)]
            evidence["tv"] = steps[0] + steps[1]
            evidence["local"] = local_residuals(residuals[0])
        return {name: value.float() for name, value in evidence.items()}


def local_residuals(residual: Tensor) -> Tensor:
    r"""Quantiles .9, .99 and 1 of the smoothed absolute residual of each image: how far off its worst places are.

    The mean of $|r|$ over the colours and a window of w x w pixels, at every place where the window lies inside the
    image; w is a tenth of the shorter side (3 of 28 or 32 pixels). The quantile q of n places is the $\lceil q n
    \rceil$-th smallest value.

    Arguments:
        residual: r, shape (B, C, H, W).

    Returns:
        Shape (3, B), in units of r.
    """
    window = max(1, round(min(residual.shape[2:]) / 10))
    places = F.avg_pool2d(residual.abs().mean(1, keepdim=True), window, stride=1).flatten(1).sort(dim=1).values
    return torch.stack([places[:, math.ceil(q * places.shape[1]) - 1] for q in QUANTILES])
