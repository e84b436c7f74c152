r"""Goodness of fit of an example's codes to their prior $\mathcal N(0, I)$."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oodgen.models.density import Coded
from oodgen.noise import ExampleNoise
from oodgen.probes.probe import Evidence

__all__ = ["CodeNormality", "anderson_darling"]


@dataclass(frozen=True)
class CodeNormality:
    r"""Statistics of the n elements of each layer's codes, read as n draws: their distribution, and their correlations.

    The codes are those of `oodgen.models.density.Coded`. Posterior means vary less than draws from the prior, so the
    statistics of an inlier of a hierarchy are not those of $\mathcal N(0, I)$; what they are, validation examples tell.

    Evidence, without unit, L layers (of a flow: its levels), lowest first:
    * `a2` (L, N): $A^2$; see `anderson_darling`.
    * `power`, `power_deviation` (L, N): mean and standard deviation of the spectrum $|\mathrm{rfft}(c)|^2 / n$ over its
      frequencies, c flattened with the rows of a map last; near 1 for white noise.

    Source: Bomatter, Geary, Gouk 2026 (arXiv:2605.22496), of continuous flows; for Glow and hierarchies it is our own
        question.
    """

    needs = Coded

    def batch(self, model: Coded) -> int:
        return 200

    def __call__(self, model: Coded, x: Tensor, noise: ExampleNoise) -> Evidence:
        codes = [code.flatten(1).double() for code in model.codes(model.observe(x, noise))]
        spectra = [torch.fft.rfft(code).abs().square() / code.shape[1] for code in codes]
        evidence = {
            "a2": [anderson_darling(code) for code in codes],
            "power": [spectrum.mean(1) for spectrum in spectra],
            "power_deviation": [spectrum.std(1, correction=0) for spectrum in spectra],
        }
        return {name: torch.stack(rows).float() for name, rows in evidence.items()}


def anderson_darling(values: Tensor) -> Tensor:
    r"""The Anderson-Darling statistic of n values $c_1 \le \dots \le c_n$ against the standard normal distribution.

    $$A^2 = -n - \frac1n \sum_{i=1}^n (2i - 1) \big[\log \Phi(c_i) + \log \Phi(-c_{n+1-i})\big]$$

    Mean and variance are not estimated, so it also measures these; its expectation under the prior is 1.

    Arguments:
        values: Shape (B, n), float64, in any order.

    Returns:
        Shape (B,).
    """
    n, ordered = values.shape[1], values.sort(dim=1).values
    weights = torch.arange(1, 2 * n, 2, dtype=values.dtype, device=values.device) / n
    tails = torch.special.log_ndtr(ordered) + torch.special.log_ndtr(-ordered.flip(1))
    return -n - (weights * tails).sum(1)
