r"""Scores of an ensemble: algebra over what a score of a single model says of each member.

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

from oodgen.scores.likelihood import level

__all__ = ["BestMember", "each", "mean", "member", "variance", "waic"]

Evidence = Mapping[str, Tensor]
Score = Callable[[Evidence], Tensor]


class _Alone(Evidence):
    """Evidence as if one member had been asked alone: without the member axis of what a probe says of all."""

    def __init__(self, evidence: Evidence, probe: str, row: int) -> None:
        self.evidence, self.probe, self.row = evidence, probe, row

    def __getitem__(self, name: str) -> Tensor:
        value = self.evidence[name]
        return value[self.row] if name.startswith(f"{self.probe}/") else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.evidence)

    def __len__(self) -> int:
        return len(self.evidence)


def each(evidence: Evidence, score: Score, probe: str = "members") -> Tensor:
    """The score of every member, (M, N), float64.

    Arguments:
        evidence: Holds what `probe` says, with a leading axis of members.
        score: Of a single model's evidence.
        probe: The probe that asked all members.

    Raises:
        KeyError: the probe said nothing.
    """
    names = [name for name in evidence if name.startswith(f"{probe}/")]
    if not names:
        raise KeyError(f"{probe}/...")
    members = len(evidence[names[0]])
    return torch.stack([score(_Alone(evidence, probe, row)).double() for row in range(members)])


def member(evidence: Evidence, score: Score, i: int = 1, probe: str = "members") -> Tensor:
    r"""$s_i$, i = 1..M, counted without those that training dropped; see `each`.

    Raises:
        IndexError: there is no such member.
    """
    return level(each(evidence, score, probe), i, first=1, name="member")


def mean(evidence: Evidence, score: Score, probe: str = "members") -> Tensor:
    r"""$\frac1M \sum_i s_i$; see `each`."""
    return each(evidence, score, probe).mean(0)


def variance(evidence: Evidence, score: Score, probe: str = "members") -> Tensor:
    r"""The population variance $\frac1M \sum_i (s_i - \bar s)^2$, in squares of the score's unit; see `each`."""
    return each(evidence, score, probe).var(0, correction=0)


def waic(evidence: Evidence, score: Score, probe: str = "members") -> Tensor:
    r"""$-\mathrm{WAIC} = -\big(\mathbb E_i \log p_{\theta_i}(x) - \mathrm{Var}_i \log p_{\theta_i}(x)\big)$.

    The two parts have different units, so the unit weighs them: here nats for each example, not each dimension.

    Arguments:
        evidence, probe: See `each`.
        score: $-\log p$ of a single model, nats.
    """
    return mean(evidence, score, probe) + variance(evidence, score, probe)


@dataclass(frozen=True)
class BestMember:
    r"""The score of the member that explains held-out inliers best: the smallest mean of s on the validation split.

    An ensemble should beat it, or M - 1 trainings were for nothing. It is chosen without OOD data.

    Arguments:
        score: $-\log p$ of a single model, nats.
        probe: The probe that asked all members.
        best: The member, 1 the first, from `fit`.
    """

    score: Score
    probe: str = "members"
    best: int | None = None

    def fit(self, evidence: Evidence) -> "BestMember":
        """The score with its member chosen on inlier evidence that is neither trained on nor tested on."""
        return replace(self, best=1 + int(each(evidence, self.score, self.probe).mean(1).argmin()))

    def __call__(self, evidence: Evidence) -> Tensor:
        if self.best is None:
            raise ValueError("BestMember must be fitted on inlier evidence before it scores")
        return member(evidence, self.score, self.best, self.probe)
