r"""Glow, a normalising flow: an exact density of dequantised images.

An invertible network f maps an image y to codes $\epsilon = f(y)$ of the same number D of elements, with

$$\log p(y) = \log \mathcal N(\epsilon; 0, I) + \log \Big|\det \frac{\partial f}{\partial y}\Big|.$$

A stored image x of 256 levels is observed as $y = (x + u) / 256 - \tfrac12$ with u uniform on $[0, 1)^D$. The mass of x
is the integral of the density over its cell, so by Jensen's inequality

$$\log P(x) = \log \mathbb E_u\, p(y) - D \log 256 \ge \mathbb E_u \log p(y) - D \log 256,$$

whose right-hand side for one u is what the model returns; bits per dimension are $-1 / (D \ln 2)$ times it.

Source: Kingma & Dhariwal 2018 (Glow); Theis et al. 2016, section 3.1 (dequantisation).
"""

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodgen.errors import UserError
from oodgen.models.density import Bound, Density
from oodgen.models.distributions import LEVELS
from oodgen.models.flow_layers import ActNorm, Coupling, FlowSequential, Mixing, Split, data_dependent_init
from oodgen.noise import Noise
from oodgen.options import Count

__all__ = ["Glow"]


class Glow(Density):
    r"""The Glow flow: L levels of K steps; a level squeezes 2 x 2 pixels into channels and factors out half of these.

    A step is an actnorm, an invertible 1x1 convolution and a coupling. The factored-out half has a Gaussian prior given
    the other one; see `oodgen.models.flow_layers.Split`.

    Arguments:
        shape: Image shape (C, H, W).
        steps: K.
        levels: L.
        hidden: Channels inside the couplings.
        coupling: "affine" or "additive" (volume-preserving).
        learned_top: Learn mean and deviation of each channel of the last code (by an actnorm before
            $\mathcal N(0, I)$, initialised from data); otherwise its prior is standard normal.

    Raises:
        UserError: H or W is not divisible by $2^L$.
    """

    bin = 1 / (LEVELS - 1)  # log_px is a log-mass
    initialised: Tensor

    def __init__(
        self,
        shape: Sequence[Count],
        steps: Count = 32,
        levels: Count = 3,
        hidden: Count = 512,
        coupling: Literal["affine", "additive"] = "affine",
        learned_top: bool = True,
    ) -> None:
        super().__init__()
        affine = {"affine": True, "additive": False}[coupling]
        channels, height, width = self.shape = tuple(shape)
        if height % 2**levels or width % 2**levels:
            fit = [2**levels * -(-n // 2**levels) for n in (height, width)]
            raise UserError(
                f"model: {height} x {width} pixels are not divisible by {2**levels} (2 for each of model.levels); "
                f"set data.size=[{fit[0]},{fit[1]}] and model.shape=[{channels},{fit[0]},{fit[1]}]"
            )
        self.chains, self.splits = nn.ModuleList(), nn.ModuleList()
        self.latents: list[tuple[int, int, int]] = []  # shapes of the codes, in the order of `encode`
        for level in range(1, levels + 1):
            channels, height, width = 4 * channels, height // 2, width // 2
            layers: list[nn.Module] = []
            for _ in range(steps):
                layers += [ActNorm(channels), Mixing(channels), Coupling(channels, hidden, affine)]
            if level < levels:
                self.chains.append(FlowSequential(layers))
                self.splits.append(Split(channels))
                channels //= 2
            self.latents.append((channels, height, width))
        self.last = FlowSequential([*layers, ActNorm(channels)] if learned_top else layers)
        self.register_buffer("initialised", torch.tensor(False))

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        return (x + noise.uniform("x", (1, *x.shape), x.device)[0]) / LEVELS - 0.5

    def initialise(self, y: Tensor, noise: Noise) -> None:
        """Data-dependent initialisation of the actnorms on one batch; without effect on an initialised model."""
        if not self.initialised:
            data_dependent_init(self, lambda: self(y, noise))
            self.initialised.fill_(True)

    def encode(self, y: Tensor) -> tuple[list[Tensor], Tensor]:
        """The codes of observed images, (B, *latent) for each of `latents`, and the log-determinant (B,)."""
        h, total, codes = y, y.new_zeros(len(y)), []
        for chain, split in zip(self.chains, self.splits, strict=True):
            h, log_det = chain(F.pixel_unshuffle(h, 2))
            h, code, prior = split(h)
            codes.append(code)
            total = total + log_det + prior
        code, log_det = self.last(F.pixel_unshuffle(h, 2))
        return [*codes, code], total + log_det

    def codes(self, y: Tensor) -> list[Tensor]:
        """See `oodgen.models.density.Coded`."""
        return self.encode(y)[0]

    def decode(self, codes: Sequence[Tensor]) -> Tensor:
        """The observed images (B, C, H, W) of codes: the inverse of `encode`."""
        h = F.pixel_shuffle(self.last.inverse(codes[-1]), 2)
        for chain, split, code in zip(reversed(self.chains), reversed(self.splits), reversed(codes[:-1]), strict=True):
            h = F.pixel_shuffle(chain.inverse(split.inverse(h, code)), 2)  # type: ignore[operator]
        return h

    def forward(self, y: Tensor, noise: Noise, samples: int = 1) -> Bound:
        """The exact log-density minus D log 256; deterministic, so the S samples are equal."""
        base, log_det = self.log_density_parts(y)
        log_px = base + log_det - math.prod(self.shape) * math.log(LEVELS)
        return Bound(log_px.expand(samples, -1))

    def log_density_parts(self, y: Tensor) -> tuple[Tensor, Tensor]:
        r"""$\log \mathcal N(\epsilon; 0, I)$ and $\log |\det \partial f / \partial y|$, both (B,), in nats."""
        codes, log_det = self.encode(y)
        base = -sum((code.square() + math.log(2 * math.pi)).flatten(1).sum(1) for code in codes) / 2
        return cast(Tensor, base), log_det

    def generate(self, count: int, noise: Noise) -> Tensor:
        device = self.initialised.device
        codes = [noise.normal(f"z{i}", (1, count, *shape), device)[0] for i, shape in enumerate(self.latents, 1)]
        # back to grey levels, minus the mean 1/2 of the dequantisation noise u
        return ((LEVELS * (self.decode(codes) + 0.5) - 0.5) / (LEVELS - 1)).clamp(0, 1)
