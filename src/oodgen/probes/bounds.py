r"""Every $\mathcal L^{>k}$ and $\mathbb E \log p(x | z_{>k})$ of a hierarchy, in one pass over each example."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from oodgen.errors import UserError
from oodgen.models.density import Hierarchy
from oodgen.noise import ExampleNoise
from oodgen.options import Count
from oodgen.probes.probe import Evidence

__all__ = ["Bounds"]


@dataclass(frozen=True)
class Bounds:
    r"""Bounds of all levels k = 0..L-1 of the same observed y, sharing the bottom-up computation.

    Evidence, in nats: `l` (L, N), $\mathcal L^{>k}$; `log_px` (L, N), $\mathbb E \log p(x | z_{>k})$; `kl` (L, N), the
    KL of each layer in the ELBO, lowest first; `iw` (N,), the importance-weighted bound; with `prior` also `prior`
    (N,), $\mathcal L^{>L} = \mathbb E_{p(z)} \log p(x | z)$.

    Arguments:
        samples: S, the samples of the ELBO and of the importance-weighted bound.
        samples_k: Samples of $\mathcal L^{>k}$ for k > 0, a plain average.
        prior: Compute $\mathcal L^{>L}$ too (the last column of the paper's table 1).
        up, down: The options of $\mathcal L^{>k}$; see `oodgen.models.layered.HierarchicalVAE`.
        budget: Largest batch (examples x samples x levels) of one call of the networks; samples are drawn in chunks.
            None for 400 on a CPU (whose caches hold it) and 16,384 on a GPU.

    Source: Havtorn et al. 2021, section 3.2 and eq. 9.
    """

    samples: Count = 1
    samples_k: Count = 1
    prior: bool = False
    up: Literal["mean", "sample"] = "mean"
    down: Literal["sample", "mode"] = "sample"
    # not in the repr, which names stored evidence: it changes how the numbers are computed, not what they are
    budget: Count | None = field(default=None, repr=False)
    needs = Hierarchy

    def __post_init__(self) -> None:  # another word would silently mean the usual one
        for name, choices in (("up", ("mean", "sample")), ("down", ("sample", "mode"))):
            if getattr(self, name) not in choices:
                raise UserError(f"probe option {name}={getattr(self, name)!r} is not one of: {', '.join(choices)}")

    def batch(self, model: Hierarchy) -> int:
        # few examples with all their samples, so that the bottom-up pass is computed once per example
        rows = self.samples + (model.depth - 1 + self.prior) * self.samples_k
        return max(1, self._budget(next(model.parameters()).device) // rows)

    def _budget(self, device: torch.device) -> int:
        return self.budget or (16_384 if device.type == "cuda" else 400)

    def __call__(self, model: Hierarchy, x: Tensor, noise: ExampleNoise) -> Evidence:
        levels, batch = model.depth + self.prior, len(x)
        y = model.observe(x, noise)
        wanted = [self.samples] + [self.samples_k] * (levels - 1)
        log_px, value = (torch.zeros(levels, batch, dtype=torch.float64, device=x.device) for _ in range(2))
        kl = torch.zeros(model.depth, batch, dtype=torch.float64, device=x.device)
        weights: list[Tensor] = []
        first = 0
        while first < max(wanted):
            active = [k for k in range(levels) if wanted[k] > first]
            # a chunk ends where a level has enough samples, so that its size does not depend on the level
            chunk = min(max(1, self._budget(x.device) // (batch * len(active))), min(wanted[k] for k in active) - first)
            bounds = model.bounds(
                y, ExampleNoise(noise.seed, noise.index, first), active, [chunk] * len(active), self.up, self.down
            )
            for k, bound in zip(active, bounds, strict=True):
                log_px[k] += bound.log_px.double().sum(0)
                value[k] += bound.elbo.double().sum(0)
            if active[0] == 0:
                kl += bounds[0].kls.double().sum(1)
                weights.append(bounds[0].log_weights.double())
            first += chunk
        count = torch.tensor(wanted, device=x.device).unsqueeze(1)
        importance = torch.cat(weights)
        bounds_k = value / count
        evidence = {
            "l": bounds_k[: model.depth],
            "log_px": (log_px / count)[: model.depth],
            "kl": kl / self.samples,
            "iw": importance.logsumexp(0) - torch.tensor(len(importance), device=x.device).log(),
        }
        if self.prior:
            evidence["prior"] = bounds_k[model.depth]
        return {name: number.float() for name, number in evidence.items()}
