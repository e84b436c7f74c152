"""Diagonal Gaussians of latent variables, of shape (S, B, *latent) for S samples of B examples."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from oodgen.models.nets import FromFeatureMap, Stage
from oodgen.noise import Noise

__all__ = [
    "ConditionalGaussian",
    "Scale",
    "batched",
    "cat_samples",
    "draw",
    "first_samples",
    "gaussian_product",
    "split_samples",
    "standard_normal",
    "to_gaussian",
]

Scale = Literal["variance", "deviation"]


class ConditionalGaussian(nn.Module):
    """p(z_i | neighbouring layer), a diagonal Gaussian: `Stage`, then mean and scale (`to_gaussian`)."""

    def __init__(self, stage: Stage, head: FromFeatureMap, scale: Scale) -> None:
        super().__init__()
        self.stage, self.head, self.scale = stage, head, scale

    def forward(self, z: Tensor, skip: Tensor | None = None) -> Normal:
        """The Gaussian of (S, B, *latent), given z (S, B, ...) and the variable `skip` of a skip connection."""
        return to_gaussian(batched(self.head, batched(self.stage, z, skip)), self.scale)


def to_gaussian(params: Tensor, scale: Scale) -> Normal:
    r"""(S, B, 2D, ...), means and raw scales a concatenated along the channels, to a Gaussian of (S, B, D, ...).

    The softplus $\frac1\beta \log(1 + e^{\beta a})$, $\beta = \ln 2$, which is one at a = 0, is the variance (as in
    Havtorn et al. 2021) or the standard deviation (as in their code).
    """
    # contiguous, as noise is: CPU kernels are slow on operands of different strides; `to` copies unless the half is
    # float32 already, where `contiguous` does
    contiguous = torch.contiguous_format
    mean, raw = (half.to(torch.float32, memory_format=contiguous).contiguous() for half in params.chunk(2, dim=2))
    value = F.softplus(raw, beta=math.log(2)) + 1e-6
    return Normal(mean, value.sqrt() if scale == "variance" else value, validate_args=False)


def standard_normal(shape: Sequence[int], device: torch.device) -> Normal:
    r"""$\mathcal N(0, I)$ of shape (1, 1, *shape), which broadcasts over samples and examples."""
    zero = torch.zeros(1, 1, *shape, device=device)
    return Normal(zero, torch.ones_like(zero), validate_args=False)


def gaussian_product(a: Normal, b: Normal) -> Normal:
    r"""The normalised product of two Gaussians: precisions add, means are weighted by precision.

    $$\sigma^{-2} = \sigma_a^{-2} + \sigma_b^{-2}, \qquad
    \mu = \sigma^2 (\mu_a \sigma_a^{-2} + \mu_b \sigma_b^{-2})$$
    """
    weight = b.variance / (a.variance + b.variance)  # of a's mean
    return Normal(b.mean + weight * (a.mean - b.mean), a.stddev * weight.sqrt(), validate_args=False)


def draw(p: Normal, noise: Noise, site: str, shape: tuple[int, ...], down: str = "sample") -> Tensor:
    """A reparametrised "sample" of `shape` = (S, B, *latent), or with down="mode" the mean expanded to it."""
    mean = p.mean.expand(shape)
    return mean if down == "mode" else mean + p.stddev * noise.normal(site, shape, mean.device)


def batched(module: nn.Module, *inputs: Tensor | None) -> Tensor:
    """Apply a module that takes (N, ...) to inputs (S, B, ...), with N = S * B."""
    samples, batch = next(x.shape[:2] for x in inputs if x is not None)
    return module(*(None if x is None else x.flatten(0, 1) for x in inputs)).unflatten(0, (samples, batch))


def cat_samples(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate along the sample axis, so that one call of a network computes several levels."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def split_samples(p: Normal, sizes: Sequence[int]) -> list[Normal]:
    """The inverse of `cat_samples`, for a Gaussian."""
    parts = zip(p.loc.split(list(sizes)), p.scale.split(list(sizes)), strict=True)
    return [Normal(mean, scale, validate_args=False) for mean, scale in parts]


def first_samples(p: Normal, samples: int) -> Normal:
    """The Gaussian of the first `samples` samples; one of sample axis 1, which broadcasts, is unchanged."""
    return Normal(p.loc[:samples], p.scale[:samples], validate_args=False)
