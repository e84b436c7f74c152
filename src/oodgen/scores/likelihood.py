r"""Scores that are one bound or one divergence. Larger = more out-of-distribution; nats per example."""

from collections.abc import Mapping

from torch import Tensor

__all__ = ["bound", "importance", "kl", "statistic"]


def bound(evidence: Mapping[str, Tensor], k: int = 0, probe: str = "bounds") -> Tensor:
    r"""$-\mathcal L^{>k}$; k = 0 is the negative ELBO.

    Arguments:
        evidence: Holds `<probe>/l`, shape (L, N).
        k: The level.
        probe: The probe whose bounds to take.
    """
    return -evidence[f"{probe}/l"][k]


def importance(evidence: Mapping[str, Tensor], probe: str = "bounds") -> Tensor:
    r"""$-\log \frac1S \sum_s p(x, z_s) / q(z_s | x)$, the importance-weighted bound of the probe's S samples."""
    return -evidence[f"{probe}/iw"]


def kl(evidence: Mapping[str, Tensor], layer: int, probe: str = "bounds") -> Tensor:
    r"""$\mathbb E_q \log q(z_i | \cdot) - \log p(z_i | \cdot)$ of layer i = `layer`, 1 the lowest."""
    return evidence[f"{probe}/kl"][layer - 1]


def statistic(evidence: Mapping[str, Tensor], name: str, probe: str = "image") -> Tensor:
    """A statistic of the image alone, as a control: what a detector without any model reaches."""
    return evidence[f"{probe}/{name}"]
