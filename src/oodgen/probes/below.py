r"""The bounds $\mathcal L^{<l}$ with $z_{<l} \sim q$ and $z_{\ge l} \sim p$, the counterpart of $\mathcal L^{>k}$."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from oodgen.models.density import HierarchyWithPosteriors
from oodgen.noise import ExampleNoise
from oodgen.options import Count
from oodgen.probes.probe import Evidence

__all__ = ["Below"]


@dataclass(frozen=True)
class Below:
    r"""$\mathcal L^{<l}$ for l = 2..L, averaged over S samples.

    $$\mathcal L^{<l} = \mathbb E_{q(z_{<l} | x)\, p(z_{\ge l})} \Big[ \log p(x | z)
      + \sum_{i<l} \log p(z_i | z_{>i}) - \log q(z_i | \cdot) \Big] \le \log p(x)$$

    $\mathcal L^{<L+1}$ is the ELBO, and $\mathcal L^{<1} = \mathcal L^{>L}$ does not use the posterior. With top-down
    inference (LVAE, BIVA) $q(z_i | \cdot)$, i < l, is conditioned on posterior samples of the layers above it, which
    enter no other term.

    Evidence, nats: `l` (L - 1, N), the first row $\mathcal L^{<2}$.

    Arguments:
        samples: S.
        budget: Largest batch of one call of the networks; see `oodgen.probes.bounds.Bounds`.

    Source: Havtorn et al. 2021, section 3, which defines $\mathcal L^{>k}$ (eq. 5); $\mathcal L^{<l}$ is read as its
        mirror image.
    """

    samples: Count = 8
    budget: Count | None = field(default=None, repr=False)
    needs = HierarchyWithPosteriors

    def batch(self, model: HierarchyWithPosteriors) -> int:
        return max(1, self._budget(next(model.parameters()).device) // self.samples)

    def _budget(self, device: torch.device) -> int:
        return self.budget or (16_384 if device.type == "cuda" else 400)

    def __call__(self, model: HierarchyWithPosteriors, x: Tensor, noise: ExampleNoise) -> Evidence:
        y = model.observe(x, noise)
        value = torch.zeros(model.depth - 1, len(x), dtype=torch.float64, device=x.device)
        chunk = max(1, self._budget(x.device) // len(x))
        for first in range(0, self.samples, chunk):
            count = min(chunk, self.samples - first)
            draws = ExampleNoise(noise.seed, noise.index, first)
            posteriors = model.posteriors(y, draws, count)
            for row in range(model.depth - 1):
                lower = [q if i <= row else None for i, q in enumerate(posteriors)]
                value[row] += model.bound_with_posteriors(y, lower, draws, count).elbo.double().sum(0)
        return {"l": (value / self.samples).float()}
