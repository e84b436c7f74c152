r"""Training that makes every level of a hierarchy say something of the image."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from oodgen.errors import UserError
from oodgen.methods.likelihood import FreeBits, MaximumLikelihood
from oodgen.methods.method import Terms
from oodgen.models.density import Bound, Hierarchy, LatentVariableModel
from oodgen.noise import Noise

__all__ = ["Informative"]


class Informative(MaximumLikelihood):
    r"""Maximise the reconstruction from every level, less the KL of all layers.

    $$\sum_{k=0}^{L-1} w_k\, \mathbb E_{q(z_{>k} | x)\, p(z_{\le k} | z_{>k})} \log p(x | z_1)
      - \beta \sum_{l=1}^L \max(\lambda, \mathrm{KL}_l)$$

    With the printed weights $w_k = 1/L$, $\beta = 1$ and $\lambda = 0$ it is a lower bound on $\log p(x)$:
    $\frac1L \sum_k [\mathcal L^{>k} - \mathrm{KL}_{\le k}]$. The ordinary reconstruction then counts $1/L$ against the
    whole KL, a $\beta$-VAE with $\beta = L$: with skip connections in the decoder, where $z_1$ is not the only way to
    the image, it soon collapses, and the ratios are upside down; without them its KL falls slowly. With $w_k = 1$ the
    weights sum to L, the KL of $z_2, z_3, \dots$ is worth paying several times over, and that of $z_1$ too, since the
    images that upper layers reconstruct teach the same decoder: $\mathcal L$ falls below $\mathcal L^{>k}$, further for
    images out of distribution, and the ratios are upside down as well. Between the two lies $w_0 = 1$ with small upper
    weights: $z_1$ pays its KL against the whole of its own reconstruction, as in the ELBO, the others are asked for
    enough to be used (experiments/adaptive_llr/README.md has what came of each).

    $z_{>k}$ are the very samples of the ELBO (`up="sample"`; of BIVA their bottom-up halves, while the top-down ones
    are drawn anew from the same q). Through means, as in the evaluation of $\mathcal L^{>k}$,
    codes would be decoded whose KL is in no term: $q(z_2 |\text{mean of } z_1)$ runs away from the prior.

    Arguments:
        model: The hierarchy; all of its levels are computed in one call of `bounds`.
        optimizer, seed, samples, warmup, free_bits, decay: See `MaximumLikelihood`.
        weights: $w_k$: "mean", 1/L each, as printed; "sum", 1 each, so that the ordinary reconstruction counts as it
            does in the ELBO (with Adam and $\lambda = 0$ the same as "mean" with KL weight 1/L); a number a,
            $w_0 = 1$ and $w_k = a$ above, so that 0 is the ELBO; or L numbers.

    Raises:
        UserError: the weights are none of these.
        Diverged: a term or a gradient is not finite; the message says at which step and which.

    Source: Li et al. 2022, eq. 10 (papers/adaptive_llr, sections 2, 4.6 and 4.7).
    """

    model: LatentVariableModel
    needs = Hierarchy
    such = "hvae_tiny"
    forward_pass = False

    def __init__(
        self,
        model: LatentVariableModel,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        seed: int = 0,
        samples: int = 1,
        warmup: float = 0,
        free_bits: FreeBits | None = None,
        decay: Literal["constant", "linear", "cosine"] = "constant",
        weights: Literal["mean", "sum"] | float | Sequence[float] = "mean",
    ) -> None:
        super().__init__(model, optimizer, seed, samples, warmup, free_bits, decay)
        self.weights = _weights(weights, model.depth)

    def gain(self, y: Tensor, noise: Noise) -> tuple[Bound, Tensor, Terms]:
        depth = len(self.weights)
        bounds = self.model.bounds(y, noise, range(depth), [self.samples] * depth, up="sample")
        log_px = [bound.log_px.mean() for bound in bounds]
        gain = torch.stack([weight * value for weight, value in zip(self.weights, log_px, strict=True)]).sum()
        return bounds[0], gain, {f"log_px_{k}": value for k, value in enumerate(log_px[1:], 1)}


def _weights(weights: str | float | Sequence[float], depth: int) -> list[float]:
    if isinstance(weights, str):
        if weights not in ("mean", "sum"):
            raise UserError(f"method.weights={weights!r} is not one of: mean, sum, a number, or a list of numbers")
        return [1 / depth if weights == "mean" else 1.0] * depth
    if isinstance(weights, int | float):
        weights = [1.0, *[float(weights)] * (depth - 1)]
    if len(weights) != depth or not all(0 <= weight < math.inf for weight in weights) or not weights[0] > 0:
        raise UserError(
            f"method.weights={list(weights)} are not {depth} finite numbers, one for each of the levels 0 to "
            f"{depth - 1}, not negative and the first positive"
        )
    return [float(weight) for weight in weights]
