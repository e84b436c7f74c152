"""A probe of single models, applied to every member of an ensemble."""

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
    """The probe's evidence (..., N) of each active member, stacked along a leading axis: (M, ..., N).

    Each member has its own noise, seeded by `member_seed`, except for the noise of `observe`: binarisation and
    dequantisation are those of the first member, since the variance over members should not contain that of
    observations. A probe with `fit` is fitted for each member, with the same noise.

    Arguments:
        probe: The probe of single models.
        fitted: Tensors (M, ...) of the fitted probes of the active members, from `fit`.
    """

    probe: Probe
    fitted: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    needs = Ensemble

    def batch(self, model: Ensemble) -> int:
        return self.probe.batch(next(iter(model.active_members().values())))

    @property
    def gradients(self) -> bool:
        """See `oodgen.probes.probe.Probe`."""
        return getattr(self.probe, "gradients", False)

    @property
    def fit(self) -> Callable[..., "Members"] | None:
        """See `oodgen.probes.probe.Probe`; None if the probe has no `fit`."""
        return self._fit if callable(getattr(self.probe, "fit", None)) else None

    def _fit(self, model: Ensemble, examples: Iterable[tuple[Tensor, Tensor | None, ExampleNoise]]) -> "Members":
        batches, probe = list(examples), cast(Any, self.probe)  # a list: each member iterates over them
        fitted = [
            probe.fit(member, ((x, y, _MemberNoise(noise, i)) for x, y, noise in batches)).fitted
            for i, member in model.active_members().items()
        ]
        return replace(self, fitted={name: torch.stack([one[name] for one in fitted]) for name in fitted[0]})

    def __call__(self, model: Ensemble, x: Tensor, noise: ExampleNoise) -> Evidence:
        outputs, template = [], cast(Any, self.probe)
        for row, (i, member) in enumerate(model.active_members().items()):
            fitted = {name: value[row] for name, value in self.fitted.items()}
            probe = replace(template, fitted=fitted) if fitted else template
            outputs.append(probe(member, x, _MemberNoise(noise, i)))
        return {name: torch.stack([one[name] for one in outputs]) for name in outputs[0]}


class _MemberNoise(ExampleNoise):
    """A member's noise; at the site "x" of `observe` it is the first member's."""

    def __init__(self, noise: ExampleNoise, member: int) -> None:
        super().__init__(member_seed(noise.seed, member), noise.index, noise.first_sample)
        self.first_seed = member_seed(noise.seed, 1)

    def uniform(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        if site == "x":
            return ExampleNoise(self.first_seed, self.index, self.first_sample).uniform(site, shape, device)
        return super().uniform(site, shape, device)
