r"""How far an example's likelihood lies from what is usual, in either direction. Larger = more out-of-distribution."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from oodgen.scores.likelihood import bound

__all__ = ["Typicality"]


@dataclass(frozen=True)
class Typicality:
    r"""$|-\mathcal L(x) - \hat h|$, $\hat h$ the mean of $-\mathcal L$ on inlier validation examples; nats.

    The test of the typical set for single examples: an example may be too likely as well as too unlikely.

    Arguments:
        probe: The probe whose bounds to take.
        reference: $\hat h$, from `fit`.

    Source: Nalisnick et al. 2019 (Detecting OOD inputs using typicality), eq. 5 with M = 1.
    """

    probe: str = "bounds"
    reference: float | None = None

    def fit(self, evidence: Mapping[str, Tensor]) -> "Typicality":
        """The score with its reference taken from inlier evidence that is neither trained on nor tested on."""
        return replace(self, reference=bound(evidence, probe=self.probe).double().mean().item())

    def __call__(self, evidence: Mapping[str, Tensor]) -> Tensor:
        if self.reference is None:
            raise ValueError("Typicality must be fitted on inlier evidence before it scores")
        return (bound(evidence, probe=self.probe).double() - self.reference).abs()
