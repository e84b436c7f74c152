r"""Scores that are a single bound, KL or statistic. Larger = more out-of-distribution; nats per example."""

from collections.abc import Mapping

from torch import Tensor

from oodgen.options import Count, Whole

__all__ = ["below", "bound", "importance", "kl", "prior", "select_level", "statistic"]


def select_level(values: Tensor, k: int, first: int = 0, name: str = "level k") -> Tensor:
    """Row k of `values`, whose rows are numbered from `first`.

    Raises:
        IndexError: there is no such row; also for negative k, which would count from the end.
    """
    if not first <= k < first + len(values):
        raise IndexError(f"{name}={k} of {first}..{first + len(values) - 1}")
    return values[k - first]


def bound(evidence: Mapping[str, Tensor], k: Whole = 0, probe: str = "bounds") -> Tensor:
    r"""$-\mathcal L^{>k}$; k = 0 is the negative ELBO.

    Arguments:
        evidence: Holds `<probe>/l`, shape (L, N).
        k: The level.
        probe: The probe whose bounds to take.
    """
    return -select_level(evidence[f"{probe}/l"], k)


def below(evidence: Mapping[str, Tensor], layer: Count, probe: str = "below") -> Tensor:
    r"""$-\mathcal L^{<l}$, l = `layer` = 2..L; needs the probe `oodgen.probes.below.Below`."""
    return -select_level(evidence[f"{probe}/l"], layer, first=2, name="layer")


def prior(evidence: Mapping[str, Tensor], probe: str = "bounds") -> Tensor:
    r"""$-\mathcal L^{>L} = -\mathbb E_{p(z)} \log p(x | z)$, all of z from the prior; needs `prior=true`."""
    return -evidence[f"{probe}/prior"]


def importance(evidence: Mapping[str, Tensor], probe: str = "bounds") -> Tensor:
    r"""$-\log \frac1S \sum_s p(x, z_s) / q(z_s | x)$, the importance-weighted bound of the probe's S samples."""
    return -evidence[f"{probe}/iw"]


def kl(evidence: Mapping[str, Tensor], layer: Count, probe: str = "bounds") -> Tensor:
    r"""$\mathbb E_q \log q(z_i | \cdot) - \log p(z_i | \cdot)$ of layer i = `layer`, 1 the lowest."""
    return select_level(evidence[f"{probe}/kl"], layer, first=1, name="layer")


def statistic(evidence: Mapping[str, Tensor], name: str, probe: str = "image") -> Tensor:
    """The evidence `<probe>/<name>` itself: a statistic of the image alone (a control), or of its reconstruction."""
    return evidence[f"{probe}/{name}"]
