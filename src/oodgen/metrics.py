r"""Metrics of OOD detection: AUROC, average precision, FPR at a TPR, with bootstrap intervals; float64.

A larger score means more out-of-distribution, and out-of-distribution is the positive class unless stated otherwise.
Tied scores share one threshold. The metrics depend on ranks only, so they are invariant under increasing maps of the
scores (unlike torchmetrics, which applies a sigmoid to scores outside [0, 1]).

Every metric is computed from the numbers of inlier and out examples at each of the D distinct pooled scores. A
bootstrap resample changes these counts only, so that the scores are sorted once.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from oodgen.errors import UserError

__all__ = ["METRICS", "Interval", "auprc", "auroc", "bootstrap", "fpr_at_tpr", "proportion"]

Scores = ArrayLike | Tensor
Curve = NDArray[np.float64]


class Interval(NamedTuple):
    """A metric's value on all scores, and the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def auroc(inlier: Scores, out: Scores) -> float:
    r"""Area under the ROC curve, $P(s_{out} > s_{in}) + \tfrac12 P(s_{out} = s_{in})$.

    Arguments:
        inlier: Scores of in-distribution examples, shape (N,).
        out: Scores of out-of-distribution examples, shape (M,).

    Raises:
        UserError: a set is empty or a score is NaN (infinities are allowed); this holds for all metrics here.
    """
    return _apply(_auroc, inlier, out)


def auprc(inlier: Scores, out: Scores, positive: Literal["out", "in"] = "out") -> float:
    r"""Average precision, $\sum_t (R_t - R_{t-1}) P_t$ over the distinct thresholds t, with recall R and precision P.

    Arguments:
        inlier: Scores of in-distribution examples, shape (N,).
        out: Scores of out-of-distribution examples, shape (M,).
        positive: The class to be found: "out" by large scores, or "in" by small ones.
    """
    return _apply(_PRECISION[positive], inlier, out)


def fpr_at_tpr(inlier: Scores, out: Scores, tpr: float) -> float:
    """False-positive rate: share of inliers at or above the largest threshold with a true-positive rate >= `tpr`.

    Arguments:
        inlier: Scores of in-distribution examples, shape (N,).
        out: Scores of out-of-distribution examples, shape (M,).
        tpr: The true-positive rate, in (0, 1].
    """
    return _apply(partial(_fpr_at_tpr, tpr=tpr), inlier, out)


def bootstrap(inlier: Scores, out: Scores, resamples: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Every metric of `METRICS` with its 95 % percentile interval, both sets resampled independently.

    The interval covers the variation of test examples, not of training seeds.

    Arguments:
        inlier: Scores of in-distribution examples, shape (N,).
        out: Scores of out-of-distribution examples, shape (M,).
        resamples: The number of bootstrap resamples.
        seed: Seed of the resampling.

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    ranked = _ranked(inlier, out)
    full, rng = ranked.roc(), np.random.default_rng(seed)
    step = max(1, 2**16 // ranked.distinct)  # resamples per chunk, whose counts should fit the cache
    draws: dict[str, list[Curve]] = {name: [] for name in _BY_ROC}
    for first in range(0, resamples, step):
        roc = ranked.resampled(min(step, resamples - first), rng)
        for name, metric in _BY_ROC.items():
            draws[name].append(metric(roc))
    intervals = {}
    for name, metric in _BY_ROC.items():
        low, high = np.quantile(np.concatenate(draws[name]), [0.025, 0.975])
        intervals[name] = Interval(float(metric(full)), float(low), float(high))
    return intervals


def proportion(hits: int, count: int, resamples: int = 1000, seed: int = 0) -> Interval:
    """A proportion of examples, as an accuracy, with its 95 % bootstrap percentile interval (binomial resamples).

    Arguments:
        hits: The number of examples that count.
        count: N, the number of all.
        resamples, seed: See `bootstrap`.
    """
    drawn = np.random.default_rng(seed).binomial(count, hits / count, resamples) / count
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(hits / count, float(low), float(high))


class _Roc(NamedTuple):
    """Counts per distinct score, largest score first, and their cumulative sums, each (..., D)."""

    inlier: Curve
    out: Curve
    alarms: Curve  # inliers at or above the score
    caught: Curve  # out examples at or above the score


class _Ranked(NamedTuple):
    """The index of each score among the D distinct pooled scores, largest first."""

    inlier: NDArray[np.intp]
    out: NDArray[np.intp]
    distinct: int

    def roc(self) -> _Roc:
        return _roc(*(np.bincount(place, minlength=self.distinct) for place in self[:2]))

    def resampled(self, rows: int, rng: np.random.Generator) -> _Roc:
        counts = []
        for place in self[:2]:
            drawn = place[rng.integers(place.size, size=(rows, place.size), dtype=np.uint32)]
            drawn += np.arange(rows)[:, None] * self.distinct
            counts.append(np.bincount(drawn.ravel(), minlength=rows * self.distinct).reshape(rows, self.distinct))
        return _roc(*counts)


def _roc(inlier: NDArray[np.intp], out: NDArray[np.intp]) -> _Roc:
    counts = inlier.astype(np.float64), out.astype(np.float64)
    return _Roc(*counts, *(count.cumsum(-1) for count in counts))


def _ranked(inlier: Scores, out: Scores) -> _Ranked:
    inside, outside = _numbers(inlier, "inlier"), _numbers(out, "out")
    values, place = np.unique(-np.concatenate([inside, outside]), return_inverse=True)
    return _Ranked(place[: inside.size], place[inside.size :], values.size)


def _numbers(scores: Scores, name: str) -> NDArray[np.float64]:
    array = torch.as_tensor(scores, dtype=torch.float64).detach().cpu().numpy().ravel()
    if not array.size:
        raise UserError(f"there are no {name} scores: check that the data set and its split are not empty")
    # infinities have a rank: the likelihood of an example may be zero
    if bad := int(np.isnan(array).sum()):
        raise UserError(
            f"{bad} of {array.size} {name} scores are not a number: the model has probably diverged or a likelihood "
            "overflowed; look at its training loss, or score in float32"
        )
    return array


def _auroc(roc: _Roc) -> Curve:
    inliers, outs = roc.alarms[..., -1:], roc.caught[..., -1]
    return (roc.out * (inliers - roc.alarms + roc.inlier / 2)).sum(-1) / (inliers[..., 0] * outs)


def _auprc_out(roc: _Roc) -> Curve:
    precision = roc.caught / np.maximum(roc.caught + roc.alarms, 1)
    return (roc.out * precision).sum(-1) / roc.caught[..., -1]


def _auprc_in(roc: _Roc) -> Curve:
    # inliers have small scores: count what lies at or below each threshold
    found = roc.alarms[..., -1:] - roc.alarms + roc.inlier
    wrong = roc.caught[..., -1:] - roc.caught + roc.out
    return (roc.inlier * found / np.maximum(found + wrong, 1)).sum(-1) / roc.alarms[..., -1]


def _fpr_at_tpr(roc: _Roc, tpr: float) -> Curve:
    first = (roc.caught / roc.caught[..., -1:] >= tpr).argmax(-1)
    return np.take_along_axis(roc.alarms, first[..., None], -1)[..., 0] / roc.alarms[..., -1]


_PRECISION = {"out": _auprc_out, "in": _auprc_in}
_BY_ROC: dict[str, Callable[[_Roc], Curve]] = {
    "auroc": _auroc,
    "auprc": _auprc_out,
    "auprc_in": _auprc_in,
    "fpr80": partial(_fpr_at_tpr, tpr=0.8),
    "fpr95": partial(_fpr_at_tpr, tpr=0.95),
}


def _apply(metric: Callable[[_Roc], Curve], inlier: Scores, out: Scores) -> float:
    return float(metric(_ranked(inlier, out).roc()))


METRICS: dict[str, Callable[[Scores, Scores], float]] = {
    name: partial(_apply, metric) for name, metric in _BY_ROC.items()
}
