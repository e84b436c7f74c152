r"""Scores of an ensemble: functions of the scores of the single members.

With $s_i(x)$ the score of member i, for instance $-\log p_{\theta_i}(x)$, the KL ("rate") or minus a critic's value:

| | | larger = more OOD |
|---|---|---|
| `member` | $s_i$ | yes |
| `mean` | $\frac1M \sum_i s_i$ | yes |
| `variance` | $\frac1M \sum_i (s_i - \bar s)^2$ | yes |
| `waic` | $\bar s + \mathrm{Var}_i[s_i]$ | yes |

Source: Choi, Jang, Alemi 2019, section 2 (papers/generative_ensembles, sections 1 and 5.3).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from oodgen.options import Count
from oodgen.scores.likelihood import select_level

__all__ = ["BestMember", "mean", "member", "member_scores", "variance", "waic"]

Evidence = Mapping[str, Tensor]
Score = Callable[[Evidence], Tensor]


class _OneMember(Evidence):
    """The evidence of one member: entries of `probe` without their leading axis of members."""

    def __init__(self, evidence: Evidence, probe: str, row: int) -> None:
        self.evidence, self.probe, self.row = evidence, probe, row

    def __getitem__(self, name: str) -> Tensor:
        value = self.evidence[name]
        return value[self.row] if name.startswith(f"{self.probe}/") else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.evidence)

    def __len__(self) -> int:
        return len(self.evidence)


def member_scores(evidence: Evidence, score: Score, probe: str = "members") -> Tensor:
    """The score of every member, (M, N), float64.

    Arguments:
        evidence: Holds `<probe>/...`, with a leading axis of members.
        score: A score of a single model's evidence.
        probe: Name of the `Members` probe.

    Raises:
        KeyError: there is no evidence of the probe.
    """
    names = [name for name in evidence if name.startswith(f"{probe}/")]
    if not names:
        raise KeyError(f"{probe}/...")
    members = len(evidence[names[0]])
    return torch.stack([score(_OneMember(evidence, probe, row)).double() for row in range(members)])


def member(evidence: Evidence, score: Score, i: Count = 1, probe: str = "members") -> Tensor:
    r"""$s_i$ of the i-th member that training did not drop, i = 1..M; see `member_scores`.

    Raises:
        IndexError: there is no such member.
    """
    return select_level(member_scores(evidence, score, probe), i, first=1, name="member")


def mean(evidence: Evidence, score: Score, probe: str = "members") -> Tensor:
    r"""$\frac1M \sum_i s_i$; see `member_scores`."""
    return member_scores(evidence, score, probe).mean(0)


def variance(evidence: Evidence, score: Score, probe: str = "members") -> Tensor:
    r"""The population variance $\frac1M \sum_i (s_i - \bar s)^2$, unit squared; see `member_scores`."""
    return member_scores(evidence, score, probe).var(0, correction=0)


def waic(evidence: Evidence, score: Score, probe: str = "members") -> Tensor:
    r"""$-\mathrm{WAIC} = -\big(\mathbb E_i \log p_{\theta_i}(x) - \mathrm{Var}_i \log p_{\theta_i}(x)\big)$.

    Mean and variance have different units, so that the sum depends on the unit: nats per example, not per dimension.

    Arguments:
        evidence, probe: See `member_scores`.
        score: $-\log p$ of a single model, nats.
    """
    return mean(evidence, score, probe) + variance(evidence, score, probe)


@dataclass(frozen=True)
class BestMember:
    r"""The score of the member with the smallest mean of s on the inlier validation split, i.e. the best likelihood.

    A baseline for ensembles; it is chosen without OOD data.

    Arguments:
        score: $-\log p$ of a single model, nats.
        probe: Name of the `Members` probe.
        best: Number of the member, counted from 1, from `fit`.
    """

    score: Score
    probe: str = "members"
    best: int | None = None

    def fit(self, evidence: Evidence) -> "BestMember":
        """The score of the best member on the evidence of held-out inliers (neither training nor test)."""
        return replace(self, best=1 + int(member_scores(evidence, self.score, self.probe).mean(1).argmin()))

    def __call__(self, evidence: Evidence) -> Tensor:
        if self.best is None:
            raise ValueError("BestMember must be fitted on inlier evidence before it scores")
        return member(evidence, self.score, self.best, self.probe)
