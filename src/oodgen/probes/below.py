r"""The bounds $\mathcal L^{<l}$, which trust the posterior below l only: the counterpart of $\mathcal L^{>k}$."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from oodgen.errors import UserError
from oodgen.models.density import OpenHierarchy
from oodgen.noise import ExampleNoise
from oodgen.probes.probe import Evidence

__all__ = ["Below"]


@dataclass(frozen=True)
class Below:
    r"""$\mathcal L^{<l}$ for l = 2..L, a plain average over S samples.

    $$\mathcal L^{<l} = \mathbb E_{q(z_{<l} | x)\, p(z_{\ge l})} \Big[ \log p(x | z)
      + \sum_{i<l} \log p(z_i | z_{>i}) - \log q(z_i | \cdot) \Big] \le \log p(x)$$

    The layers from l on come from the prior, whatever the image is. $\mathcal L^{<L+1}$ is the ELBO, and
    $\mathcal L^{<1} = \mathcal L^{>L}$ knows nothing of the image. The definition is the mirror image of eq. 5. Where
    inference comes down (the ladder, BIVA), the layers from l on that $q(z_i | \cdot)$ depends on are inferred from the
    image too; they only lead to $z_{<l}$ and are then forgotten.

    Evidence, nats: `l` (L - 1, N), its first row $\mathcal L^{<2}$.

    Arguments:
        samples: S.
        budget: Rows of the networks that one call may use; see `oodgen.probes.bounds.Bounds`.

    Raises:
        UserError: `samples` or `budget` is not positive.

    Source: Havtorn et al. 2021, section 3, which has $\mathcal L^{>k}$; the symbol $\mathcal L^{<l}$ is read as above.
    """

    samples: int = 8
    budget: int | None = field(default=None, repr=False)
    needs = OpenHierarchy

    def __post_init__(self) -> None:
        if min(self.samples, 1 if self.budget is None else self.budget) < 1:
            raise UserError("probe options samples and budget must be at least 1")

    def batch(self, model: OpenHierarchy) -> int:
        return max(1, self._budget(next(model.parameters()).device) // self.samples)

    def _budget(self, device: torch.device) -> int:
        return self.budget or (16_384 if device.type == "cuda" else 400)

    def __call__(self, model: OpenHierarchy, x: Tensor, noise: ExampleNoise) -> Evidence:
        y = model.observe(x, noise)
        value = torch.zeros(model.depth - 1, len(x), dtype=torch.float64, device=x.device)
        chunk = max(1, self._budget(x.device) // len(x))
        for first in range(0, self.samples, chunk):
            count = min(chunk, self.samples - first)
            draws = ExampleNoise(noise.seed, noise.index, first)
            posteriors = model.posteriors(y, draws, count)
            for row in range(model.depth - 1):
                trusted = [q if i <= row else None for i, q in enumerate(posteriors)]
                value[row] += model.explain(y, trusted, draws, count).elbo.double().sum(0)
        return {"l": (value / self.samples).float()}
