"""A probe of single models, asked of every member of an ensemble."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from oodgen.models.ensemble import Ensemble
from oodgen.noise import ExampleNoise, member_seed
from oodgen.probes.probe import Evidence, Probe

__all__ = ["Members"]


@dataclass(frozen=True)
class Members:
    """The evidence of each member that counts, stacked along a leading axis: what one says as (..., N) is (M, ..., N).

    Each member is asked with noise of its own, of `member_seed`: the first one with that of a single model. But they
    are asked of one example: its binarisation or dequantisation is the first one's, or the variance over members would
    be in part that over observations. A probe that needs a reference is fitted for each member by itself, with that
    noise too.

    Arguments:
        probe: The question to each.
        fitted: What the probe took from its reference, for each member that counts, (M, ...), from `fit`.
    """

    probe: Probe
    fitted: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    needs = Ensemble

    def batch(self, model: Ensemble) -> int:
        return self.probe.batch(next(iter(model.there().values())))

    @property
    def gradients(self) -> bool:
        """As `oodgen.probes.probe.Probe` says."""
        return getattr(self.probe, "gradients", False)

    @property
    def fit(self) -> Callable[..., "Members"] | None:
        """As `oodgen.probes.probe.Probe` says; None where the probe needs no reference."""
        return self._fit if callable(getattr(self.probe, "fit", None)) else None

    def _fit(self, model: Ensemble, examples: Iterable[tuple[Tensor, Tensor | None, ExampleNoise]]) -> "Members":
        given, probe = list(examples), cast(Any, self.probe)  # as stored: each member passes over them
        found = [
            probe.fit(member, ((x, y, _Own(noise, i)) for x, y, noise in given)).fitted
            for i, member in model.there().items()
        ]
        return replace(self, fitted={name: torch.stack([one[name] for one in found]) for name in found[0]})

    def __call__(self, model: Ensemble, x: Tensor, noise: ExampleNoise) -> Evidence:
        said, whole = [], cast(Any, self.probe)
        for row, (i, member) in enumerate(model.there().items()):
            own = {name: value[row] for name, value in self.fitted.items()}
            probe = replace(whole, fitted=own) if own else whole
            said.append(probe(member, x, _Own(noise, i)))
        return {name: torch.stack([one[name] for one in said]) for name in said[0]}


class _Own(ExampleNoise):
    """A member's noise; that of the site x, at which examples are observed, is the first member's."""

    def __init__(self, noise: ExampleNoise, member: int) -> None:
        super().__init__(member_seed(noise.seed, member), noise.index, noise.first)
        self.first_seed = member_seed(noise.seed, 1)

    def uniform(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        if site == "x":
            return ExampleNoise(self.first_seed, self.index, self.first).uniform(site, shape, device)
        return super().uniform(site, shape, device)
