r"""Scores of a classifier's logits. Larger = more out-of-distribution.

The logits of one classifier are (K, N); those of a deep ensemble are (M, K, N), and p(c|x) is the mean of the members'
probabilities.

Source: Hendrycks & Gimpel 2017 (maximum probability); Lakshminarayanan et al. 2017, section 2.4 (deep ensembles).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["entropy", "logit", "max_probability", "most_probable"]


def max_probability(evidence: Mapping[str, Tensor], probe: str = "classifier") -> Tensor:
    r"""$-\max_c p(c | x)$, in [-1, -1/K].

    Arguments:
        evidence: Holds `<probe>/logits`.
        probe: The probe whose logits to take.
    """
    return -_probabilities(evidence[f"{probe}/logits"]).amax(0)


def entropy(evidence: Mapping[str, Tensor], probe: str = "classifier") -> Tensor:
    r"""$-\sum_c p(c | x) \log p(c | x)$, in nats."""
    return torch.special.entr(_probabilities(evidence[f"{probe}/logits"])).sum(0)


def most_probable(evidence: Mapping[str, Tensor], probe: str = "classifier") -> Tensor:
    r"""$\arg\max_c p(c | x)$, the predicted class, (N,); not an OOD score, used for the accuracy."""
    return _probabilities(evidence[f"{probe}/logits"]).argmax(0)


def logit(evidence: Mapping[str, Tensor], probe: str = "classifier") -> Tensor:
    """The logit of a binary classifier of inliers against negatives, large for negatives."""
    return evidence[f"{probe}/logits"][0]


def _probabilities(logits: Tensor) -> Tensor:
    """p(c|x), (K, N), float64."""
    p = logits.double().softmax(-2)
    return p.mean(0) if p.ndim == 3 else p
