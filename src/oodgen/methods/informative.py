r"""The informative loss of Li et al.: reconstruction terms from every level of a hierarchy."""

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
from oodgen.options import Count, NonNegative, Seed

__all__ = ["Informative"]


class Informative(MaximumLikelihood):
    r"""Maximise the weighted reconstruction terms of all levels minus the KL of all layers.

    $$\sum_{k=0}^{L-1} w_k\, \mathbb E_{q(z_{>k} | x)\, p(z_{\le k} | z_{>k})} \log p(x | z_1)
      - \beta \sum_{l=1}^L \max(\lambda, \mathrm{KL}_l)$$

    With the printed weights $w_k = 1/L$, $\beta = 1$ and $\lambda = 0$ it is a lower bound on $\log p(x)$:
    $\frac1L \sum_k [\mathcal L^{>k} - \mathrm{KL}_{\le k}]$. The reconstruction from $z_1$ then has weight $1/L$
    against the full KL, as in a $\beta$-VAE with $\beta = L$: with skip connections in the decoder $z_1$ soon collapses
    and the likelihood ratios rank inversely; without them its KL decreases slowly. With $w_k = 1$ the weights sum to L,
    so that the layers may use several times as much KL: $\mathcal L$ falls below $\mathcal L^{>k}$, further for OOD
    images, and the ratios rank inversely as well. In between lies $w_0 = 1$ with small upper weights, where $z_1$ is
    trained as in the ELBO and the other reconstruction terms keep the upper layers in use (results of each:
    experiments/adaptive_llr/README.md).

    $z_{>k}$ are the samples of the ELBO (`up="sample"`; for BIVA the bottom-up halves, while the top-down halves are
    drawn anew from the same q). With posterior means, as in the evaluation of $\mathcal L^{>k}$, the decoded codes
    would have no KL term, and $q(z_2 |\text{mean of } z_1)$ diverges from the prior.

    Arguments:
        model: The hierarchy; all levels are computed in one call of `bounds`.
        optimizer, seed, samples, warmup, free_bits, decay: See `MaximumLikelihood`.
        weights: $w_k$: "mean", 1/L each, as printed; "sum", 1 each, so that $w_0$ is that of the ELBO (with Adam and
            $\lambda = 0$ equivalent to "mean" with KL weight 1/L); a number a: $w_0 = 1$ and $w_k = a$ for k > 0, the
            ELBO for a = 0; or L numbers.

    Raises:
        UserError: the weights are invalid.
        Diverged: a term or a gradient is not finite; the message names it and the step.

    Source: Li et al. 2022, eq. 10 (papers/adaptive_llr, sections 2, 4.6 and 4.7).
    """

    model: LatentVariableModel
    needs = Hierarchy
    example_model = "hvae_tiny"
    calls_forward = False

    def __init__(
        self,
        model: LatentVariableModel,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        seed: Seed = 0,
        samples: Count = 1,
        warmup: NonNegative = 0,
        free_bits: FreeBits | None = None,
        decay: Literal["constant", "linear", "cosine"] = "constant",
        weights: Literal["mean", "sum"] | NonNegative | Sequence[NonNegative] = "mean",
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
        return [{"mean": 1 / depth, "sum": 1.0}[weights]] * depth
    if isinstance(weights, int | float):
        weights = [1.0, *[float(weights)] * (depth - 1)]
    if len(weights) != depth or not weights[0] > 0:
        raise UserError(
            f"method.weights={list(weights)} must be {depth} numbers, one for each level 0 to {depth - 1}, the first "
            "positive"
        )
    return [float(weight) for weight in weights]
