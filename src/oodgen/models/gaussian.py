"""Diagonal Gaussians of latent variables, for S samples of B examples at once."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from oodgen.models.nets import Lower, Stage
from oodgen.noise import Noise

__all__ = ["Gaussian", "Scale", "draw", "first", "join", "merge", "normal", "rows", "split", "standard"]

Scale = Literal["variance", "deviation"]


class Gaussian(nn.Module):
    """A diagonal Gaussian given a neighbouring layer: Stage, then mean and scale (see `normal`)."""

    def __init__(self, stage: Stage, head: Lower, scale: Scale) -> None:
        super().__init__()
        self.stage, self.head, self.scale = stage, head, scale

    def forward(self, z: Tensor, beyond: Tensor | None = None) -> Normal:
        """The distribution over (S, B, *latent), given z and, for a skip connection, the variable beyond it."""
        return normal(rows(self.head, rows(self.stage, z, beyond)), self.scale)


def normal(params: Tensor, scale: Scale) -> Normal:
    r"""The Gaussian of means and raw scales a, joined along the axis of channels: (S, B, 2D, ...) to (S, B, D, ...).

    The scale is $\frac1\beta \log(1 + e^{\beta a})$ with $\beta = \ln 2$, one at a = 0; it is the variance (the paper's
    words) or the standard deviation (the authors' code).
    """
    # contiguous as noise is: CPU kernels are slow on a strided half, and on two operands of different strides; one copy
    # where `to` converts, and `contiguous` where it would hand on a half that is float32 already
    contiguous = torch.contiguous_format
    mean, raw = (half.to(torch.float32, memory_format=contiguous).contiguous() for half in params.chunk(2, dim=2))
    value = F.softplus(raw, beta=math.log(2)) + 1e-6
    return Normal(mean, value.sqrt() if scale == "variance" else value, validate_args=False)


def standard(shape: Sequence[int], device: torch.device) -> Normal:
    r"""$\mathcal N(0, I)$ over (1, 1, *shape), which broadcasts over samples and examples."""
    zero = torch.zeros(1, 1, *shape, device=device)
    return Normal(zero, torch.ones_like(zero), validate_args=False)


def merge(a: Normal, b: Normal) -> Normal:
    r"""Their product, normalised: precisions add up, and the mean is weighted by them.

    $$\sigma^{-2} = \sigma_a^{-2} + \sigma_b^{-2}, \qquad
    \mu = \sigma^2 (\mu_a \sigma_a^{-2} + \mu_b \sigma_b^{-2})$$
    """
    share = b.variance / (a.variance + b.variance)  # of a, in the mean
    return Normal(b.mean + share * (a.mean - b.mean), a.stddev * share.sqrt(), validate_args=False)


def draw(p: Normal, noise: Noise, site: str, shape: tuple[int, ...], down: str = "sample") -> Tensor:
    """A "sample" of shape (S, B, *latent), differentiable in p, or its "mode" so many times."""
    mean = p.mean.expand(shape)
    return mean if down == "mode" else mean + p.stddev * noise.normal(site, shape, mean.device)


def rows(module: nn.Module, *inputs: Tensor | None) -> Tensor:
    """Apply a module to inputs (S, B, ...) as to S * B rows."""
    samples, batch = next(x.shape[:2] for x in inputs if x is not None)
    return module(*(None if x is None else x.flatten(0, 1) for x in inputs)).unflatten(0, (samples, batch))


def join(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate along the sample axis, so that one call of a network serves several levels."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def split(p: Normal, sizes: Sequence[int]) -> list[Normal]:
    """Undo `join`."""
    parts = zip(p.loc.split(list(sizes)), p.scale.split(list(sizes)), strict=True)
    return [Normal(mean, scale, validate_args=False) for mean, scale in parts]


def first(p: Normal, samples: int) -> Normal:
    """The Gaussian of the first samples; that of one, which stands for all, stays as it is."""
    return Normal(p.loc[:samples], p.scale[:samples], validate_args=False)
