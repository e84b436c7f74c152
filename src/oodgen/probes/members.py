"""A probe of single models, asked of every member of an ensemble."""

from dataclasses import dataclass

import torch

from oodgen.models.ensemble import Ensemble
from oodgen.noise import ExampleNoise, member_seed
from oodgen.probes.probe import Evidence, Probe

__all__ = ["Members"]


@dataclass(frozen=True)
class Members:
    """The evidence of each member that counts, stacked along a leading axis: what one says as (..., N) is (M, ..., N).

    Each member is asked with noise of its own, of `member_seed`: the first one with that of a single model.

    Arguments:
        probe: The question to each.
    """

    probe: Probe
    needs = Ensemble

    def batch(self, model: Ensemble) -> int:
        return self.probe.batch(next(iter(model.there().values())))

    def __call__(self, model: Ensemble, x: torch.Tensor, noise: ExampleNoise) -> Evidence:
        said = []
        for i, member in model.there().items():
            said.append(self.probe(member, x, ExampleNoise(member_seed(noise.seed, i), noise.index, noise.first)))
        return {name: torch.stack([one[name] for one in said]) for name in said[0]}
