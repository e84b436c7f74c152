r"""Likelihood ratios between the levels of a hierarchy. Larger = more out-of-distribution; nats per example."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from oodgen.errors import UserError
from oodgen.options import Count, Whole
from oodgen.scores.ensemble import member_scores
from oodgen.scores.likelihood import select_level

log = logging.getLogger(__name__)

__all__ = ["DeviatingLevel", "background", "input_complexity", "llr", "llr_ada", "llr_between"]


def _levels(evidence: Mapping[str, Tensor], probe: str, kl: str) -> Tensor:
    r"""$\mathcal L^{>k}$ for k = 0..L-1, (L, N), with the KL of z_{>k} or (authors' script) that of the ELBO."""
    if kl == "own":
        return evidence[f"{probe}/l"]
    if kl == "elbo":
        return evidence[f"{probe}/log_px"] - evidence[f"{probe}/kl"].sum(0)
    raise UserError(f"kl={kl!r} is not one of: own, elbo")


def llr(
    evidence: Mapping[str, Tensor],
    k: Whole,
    importance: bool = False,
    kl: Literal["own", "elbo"] = "own",
    probe: str = "bounds",
) -> Tensor:
    r"""$\mathrm{LLR}^{>k} = \mathcal L - \mathcal L^{>k}$ (Havtorn et al. 2021, eq. 7).

    Arguments:
        evidence: Holds `<probe>/l`, `<probe>/log_px`, each (L, N), and `<probe>/kl` (layers, N).
        k: The level, 1..L-1.
        importance: Take the importance-weighted bound for $\mathcal L$ (eq. 9, $\mathrm{LLR}_S^{>k}$);
            $\mathcal L^{>k}$ remains an average over samples, since the ratio would otherwise tend to 0.
        kl: "own": $\mathcal L^{>k}$ contains the KL of $z_{>k}$ (eq. 5). "elbo": both bounds contain the KL of the
            ELBO, which cancels, and the ratio is $\mathbb E \log p(x|z_{>0}) - \mathbb E \log p(x|z_{>k})$.
        probe: The probe whose bounds to take.
    """
    levels = _levels(evidence, probe, kl)
    return (evidence[f"{probe}/iw"] if importance else levels[0]) - select_level(levels[1:], k, first=1)


def llr_between(
    evidence: Mapping[str, Tensor], k: Whole, layer: Count, probe: str = "bounds", below: str = "below"
) -> Tensor:
    r"""$\mathrm{LLR}^{>k}_{<l} = \mathcal L^{<l} - \mathcal L^{>k}$: posterior of the layers below l against above k.

    For l = L + 1 it would be $\mathrm{LLR}^{>k}$.

    Arguments:
        evidence: Holds `<probe>/l` (L, N) and `<below>/l` (L - 1, N), whose first row is $\mathcal L^{<2}$.
        k: 1..L-1.
        layer: l, 2..L.
        probe, below: The probes of the two bounds.
    """
    lower = select_level(evidence[f"{below}/l"], layer, first=2, name="layer")
    return lower - select_level(evidence[f"{probe}/l"][1:], k, first=1)


def llr_ada(evidence: Mapping[str, Tensor], kl: Literal["own", "elbo"] = "own", probe: str = "bounds") -> Tensor:
    r"""The adaptive ratio $\sum_{k=1}^{L-1} w_k (\mathcal L^{>k-1} - \mathcal L^{>k})$, $w_k = \ell_k / \ell_{k-1}$.

    $\ell_k = \mathbb E \log p(x | z_{>k})$ is clamped to at most -1 nat, so that weights are positive and bounded.

    Raises:
        IndexError: the model has one layer.

    Source: Li et al. 2022, eq. 11 (papers/adaptive_llr, section 4).
    """
    levels = _levels(evidence, probe, kl)
    select_level(levels, 1)  # with one layer the sum is empty
    log_px = evidence[f"{probe}/log_px"]
    if (log_px > 0).any():
        log.warning(
            "log p(x|z) is positive for some examples, where llr_ada is no more than llr>L-1; a discrete "
            "likelihood keeps it negative"
        )
    ell = log_px.clamp_max(-1.0)
    return (ell[1:] / ell[:-1] * (levels[:-1] - levels[1:])).sum(0)


@dataclass(frozen=True)
class DeviatingLevel:
    r"""Havtorn et al.'s rule for k without OOD data: the level whose ratio deviates most from its inlier distribution.

    $\max_k |\mathrm{LLR}^{>k} - m_k| / s_k$ with mean $m_k$ and standard deviation $s_k$ of $\mathrm{LLR}^{>k}$ on the
    validation split. Source: Havtorn et al. 2021, section 5 (flag when any k deviates).

    Arguments:
        probe: The probe whose bounds to take.
        reference: $m_k$ and $s_k$, shape (2, L-1), from `fit`.
    """

    probe: str = "bounds"
    reference: Tensor | None = None

    def fit(self, evidence: Mapping[str, Tensor]) -> "DeviatingLevel":
        """The rule with its reference from the evidence of held-out inliers (neither training nor test)."""
        ratios = self._ratios(evidence)
        return replace(self, reference=torch.stack([ratios.mean(1), ratios.std(1).clamp_min(1e-6)]))

    def __call__(self, evidence: Mapping[str, Tensor]) -> Tensor:
        if self.reference is None:
            raise ValueError("DeviatingLevel must be fitted on inlier evidence before it scores")
        mean, deviation = self.reference.unsqueeze(2)
        return ((self._ratios(evidence) - mean) / deviation).abs().amax(0)

    def _ratios(self, evidence: Mapping[str, Tensor]) -> Tensor:
        levels = evidence[f"{self.probe}/l"].double()
        select_level(levels, 1)
        return levels[0] - levels[1:]


def input_complexity(
    evidence: Mapping[str, Tensor],
    codec: Literal["png", "jpeg2000"] = "png",
    probe: str = "bounds",
    image: str = "image",
) -> Tensor:
    r"""$-\log_2 p(x) - \mathrm{bits}(x)$: the ELBO's code length minus the size of the compressed image, bits.

    A density of pixels differs from the mass of a bin by a constant, which changes no rank. A Bernoulli model codes the
    binarised image, of at most one bit a pixel, and the codec the grey one, which is several times as long and
    dominates the difference.

    Source: Serra et al. 2020 (input complexity).
    """
    return -evidence[f"{probe}/l"][0] / math.log(2) - evidence[f"{image}/{codec}_bits"]


def background(
    evidence: Mapping[str, Tensor], score: Callable[[Mapping[str, Tensor]], Tensor], probe: str = "members"
) -> Tensor:
    r"""$\log p_{\theta_0}(x) - \log p_\theta(x)$ of two models: $\theta$ of images, $\theta_0$ of mutated ones.

    What both models learn, as the background, cancels; the ratio measures the semantics of inliers. The evidence must
    hold $\theta$ first; `data.mutation=[0, 0.2]` trains the members in this order.

    Arguments:
        evidence: Holds `<probe>/...` of two members, $\theta$ and then $\theta_0$.
        score: $-\log p$ of a single model, nats.
        probe: Name of the `Members` probe.

    Raises:
        KeyError: there is no evidence of the probe.
        IndexError: there are not two members.

    Source: Ren et al. 2019 (Likelihood Ratios for Out-of-Distribution Detection), section 3, with the sign of a score.
    """
    minus_log_p = member_scores(evidence, score, probe)
    if len(minus_log_p) != 2:
        raise IndexError(f"a model and its background, not {len(minus_log_p)} members,")
    return minus_log_p[0] - minus_log_p[1]
