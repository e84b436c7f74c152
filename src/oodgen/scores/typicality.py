r"""Distance of an example's log-likelihood from its mean on inliers. Larger = more out-of-distribution."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from oodgen.scores.likelihood import bound

__all__ = ["Typicality"]


@dataclass(frozen=True)
class Typicality:
    r"""$|-\mathcal L(x) - \hat h|$, $\hat h$ the mean of $-\mathcal L$ on inlier validation examples; nats.

    The typicality test for single examples: a likelihood may be too large as well as too small.

    Arguments:
        probe: The probe whose bounds to take.
        reference: $\hat h$, from `fit`.

    Source: Nalisnick et al. 2019 (Detecting OOD inputs using typicality), eq. 5 with M = 1.
    """

    probe: str = "bounds"
    reference: float | None = None

    def fit(self, evidence: Mapping[str, Tensor]) -> "Typicality":
        """The score with its reference from the evidence of held-out inliers (neither training nor test)."""
        return replace(self, reference=bound(evidence, probe=self.probe).double().mean().item())

    def __call__(self, evidence: Mapping[str, Tensor]) -> Tensor:
        if self.reference is None:
            raise ValueError("Typicality must be fitted on inlier evidence before it scores")
        return (bound(evidence, probe=self.probe).double() - self.reference).abs()
