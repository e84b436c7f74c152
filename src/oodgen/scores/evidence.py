r"""Densities of the evidence: how unlike that of inliers is all that a model says of an example, read at once?

Each is fitted on the evidence of inlier validation examples, the reference: no outliers, and never the calibration
part, on which its p-values rest. Larger = more out-of-distribution; no unit.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from oodgen.errors import UserError
from oodgen.options import Count, Fraction
from oodgen.scores.columns import Deviations, NormalScores, check_finite, table

__all__ = ["EvidenceDensity", "FittedDensity", "Function", "Mahalanobis", "Neighbours", "SupportVectors"]

Function = Callable[[np.ndarray], np.ndarray]

CHUNK = 2**22  # numbers of an intermediate result, 32 MiB


@dataclass(frozen=True, eq=False)
class FittedDensity:
    """A density with its reference.

    Arguments:
        patterns: Of the columns' names.
        names: The columns of the reference.
        normal: Its normal scores.
        density: From finite rows (N, columns) to the score (N,).
    """

    patterns: Sequence[str]
    names: tuple[str, ...]
    normal: NormalScores
    density: Function

    def __call__(self, evidence: Mapping[str, Tensor]) -> Tensor:
        """The score of each example, (N,), float64; inf where a column is not finite.

        Raises:
            KeyError: a column of the reference is not there.
            UserError: there is a column that the reference did not have.
        """
        rows = self._rows(evidence)
        score = np.full(len(rows), np.inf)
        finite = np.isfinite(rows).all(1)
        if finite.any():
            score[finite] = self.density(rows[finite])
        return torch.from_numpy(score)

    def normal_scores(self, evidence: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Which statistic is odd: the normal score z of each column, (N,); see `NormalScores`.

        Its sign is the direction, its size how odd, also where p-values are 0 to rounding.
        """
        z = torch.from_numpy(self.normal(self._rows(evidence)))
        return dict(zip(self.names, z.unbind(1), strict=True))

    def p_values(self, evidence: Mapping[str, Tensor]) -> dict[str, Tensor]:
        r"""The two-sided p-value $2 \Phi(-|z|)$ of each column, (N,): conformal within the range of the reference."""
        return {name: 2 * torch.special.ndtr(-z.abs()) for name, z in self.normal_scores(evidence).items()}

    def _rows(self, evidence: Mapping[str, Tensor]) -> np.ndarray:
        names, rows = table(evidence, self.patterns)
        if missing := [name for name in self.names if name not in names]:
            raise KeyError(", ".join(missing))
        if names != self.names:
            further = ", ".join(name for name in names if name not in self.names)
            raise UserError(f"{further} was not in the evidence on which the score was fitted; evaluate the run again")
        return rows


@dataclass(frozen=True)
class EvidenceDensity(ABC):
    """A density of the evidence; `fit` gives the score.

    Arguments:
        columns: Patterns of the names of evidence to read; see `oodgen.scores.columns.table`.
    """

    columns: Sequence[str]

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("columns=[] reads no evidence; give patterns of names, as [bounds/*]")

    def fit(self, evidence: Mapping[str, Tensor]) -> FittedDensity:
        """The score with the evidence of held-out inliers (neither training nor test) as its reference.

        Raises:
            KeyError: no evidence matches.
            Diverged: the evidence is not finite.
        """
        names, rows = table(evidence, self.columns)
        check_finite(names, rows)
        normal = NormalScores.fit(rows)
        return FittedDensity(self.columns, names, normal, self._density(rows, normal))

    def __call__(self, evidence: Mapping[str, Tensor]) -> Tensor:
        raise ValueError(f"{type(self).__name__} must be fitted on inlier evidence before it scores")

    @abstractmethod
    def _density(self, rows: np.ndarray, normal: NormalScores) -> Function:
        """The score of finite rows as a function, from the reference's rows and normal scores."""


@dataclass(frozen=True)
class _Scaled(EvidenceDensity):
    """A density of scaled columns.

    Arguments:
        columns: See `EvidenceDensity`.
        scaling: "quantiles": `NormalScores`. "deviation": `Deviations`, of median and deviation.
    """

    scaling: Literal["quantiles", "deviation"] = "quantiles"

    def _density(self, rows: np.ndarray, normal: NormalScores) -> Function:
        scale = normal if self.scaling == "quantiles" else Deviations.fit(rows)
        distance = self._distance(scale(rows))
        return lambda x: distance(scale(x))

    @abstractmethod
    def _distance(self, reference: np.ndarray) -> Function:
        """The score of scaled rows as a function, from the reference's."""


@dataclass(frozen=True)
class Neighbours(_Scaled):
    r"""The mean Euclidean distance to the k nearest rows of the reference, or to all if there are fewer.

    Source: Loftsgaarden and Quesenberry 1965 (a density estimate by the k-th nearest); its mean over k as in Angiulli
    and Pizzuti 2002.

    Arguments:
        columns, scaling: See `_Scaled`.
        k: The number of neighbours.
        whiten: Multiply by the inverse root of the shrunk covariance of the reference first; see `Mahalanobis`.
        most: Rows of the reference that are used, a seeded choice if there are more. With 1,000 instead of 2,500 the
            AUROC of CIFAR-10 against SVHN moves by .004.
    """

    k: Count = 10
    whiten: bool = False
    most: Count = 10_000

    def _distance(self, reference: np.ndarray) -> Function:
        chosen = _subset(reference, self.most)
        root = _precision_root(reference) if self.whiten else None
        rows = torch.from_numpy(chosen if root is None else chosen @ root)
        k = min(self.k, len(rows))

        def mean_distance(x: np.ndarray) -> np.ndarray:
            # all distances: in as many dimensions trees save nothing, and scikit-learn takes seconds to import
            distances = torch.cdist(torch.from_numpy(x if root is None else x @ root), rows)
            return distances.topk(k, largest=False, sorted=False).values.mean(1).numpy()

        return lambda x: _in_chunks(mean_distance, x, len(rows))


@dataclass(frozen=True)
class Mahalanobis(_Scaled):
    r"""$\sqrt{(x - m)^\top \Sigma^{-1} (x - m)}$, m the mean of the reference and $\Sigma$ its shrunk covariance.

    $\Sigma = (1 - \delta) S + (\delta + 10^{-6}) \frac{\operatorname{tr} S}{d} I$ with the $\delta$ of Ledoit and Wolf
    2004 (A well-conditioned estimator for large-dimensional covariance matrices), so fewer rows than columns, or
    columns that are sums of others, will do. Columns that are constant on the reference are apart, with unit variance.
    """

    def _distance(self, reference: np.ndarray) -> Function:
        mean, root = reference.mean(0), _precision_root(reference)
        return lambda x: np.sqrt((((x - mean) @ root) ** 2).sum(1))


@dataclass(frozen=True)
class SupportVectors(_Scaled):
    r"""A one-class support vector machine: $-\log \sum_i \alpha_i e^{-\|x - x_i\|^2 / d}$ of d scaled columns.

    The second form of DoSE. The machine's decision is a threshold of the sum; the logarithm keeps the order, and grows
    far away, where the sum is 0 to rounding.

    Source: Schölkopf et al. 2001 (Estimating the support of a high-dimensional distribution); Morningstar et al. 2021
    (Density of States Estimation for Out-of-Distribution Detection), section 3.

    Arguments:
        columns, scaling: See `_Scaled`.
        nu: The share of the reference that may lie outside.
        most: Rows of the reference that are used, a seeded choice if there are more: time grows with their square. With
            1,000 instead of 2,500 the AUROC of CIFAR-10 against SVHN moves by .005.
    """

    nu: Fraction = 0.1
    most: Count = 10_000

    def _distance(self, reference: np.ndarray) -> Function:
        from scipy.special import logsumexp
        from sklearn.svm import OneClassSVM

        gamma = 1 / reference.shape[1]
        # a tolerance at which the order of rows does not show
        machine = OneClassSVM(gamma=gamma, nu=self.nu, tol=1e-8).fit(_subset(reference, self.most))
        vectors, weights = machine.support_vectors_, machine.dual_coef_[0]
        own = (vectors**2).sum(1)

        def minus_log_sum(x: np.ndarray) -> np.ndarray:
            squares = np.maximum((x**2).sum(1, keepdims=True) - 2 * x @ vectors.T + own, 0)
            return -logsumexp(-gamma * squares, b=weights, axis=1)

        return lambda x: _in_chunks(minus_log_sum, x, len(vectors))


def _subset(rows: np.ndarray, most: int) -> np.ndarray:
    """The rows, or a choice of `most` of them, the same at every call."""
    return rows if len(rows) <= most else rows[np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))]


def _in_chunks(function: Function, x: np.ndarray, width: int) -> np.ndarray:
    """`function` of rows x, which needs `width` numbers for each row, in parts."""
    size = max(1, CHUNK // width)
    return np.concatenate([function(x[start : start + size]) for start in range(0, len(x), size)])


def _precision_root(reference: np.ndarray) -> np.ndarray:
    r"""R with $R R^\top = \Sigma^{-1}$, see `Mahalanobis`."""
    covariance, varies = np.eye(reference.shape[1]), reference.min(0) < reference.max(0)
    if varies.any():
        shrunk = _ledoit_wolf(reference[:, varies])
        covariance[np.ix_(varies, varies)] = shrunk + 1e-6 * shrunk.diagonal().mean() * np.eye(len(shrunk))
    return np.linalg.inv(np.linalg.cholesky(covariance)).T


def _ledoit_wolf(rows: np.ndarray) -> np.ndarray:
    """The shrunk covariance of rows (n, d); by hand, since scikit-learn takes as long to import as to score a folder.

    Source: Ledoit and Wolf 2004, section 3.3 (lemma 3.2 to 3.4).
    """
    x = rows - rows.mean(0)
    sample, (n, d) = x.T @ x / len(x), x.shape
    target = sample.trace() / d * np.eye(d)
    # the sum over rows of |x x^T - S|^2, without a matrix for each
    noise = (((x**2).sum(1) ** 2).sum() / n - (sample**2).sum()) / n
    distance = ((sample - target) ** 2).sum()
    shrinkage = min(noise / distance, 1.0) if distance > 0 else 0.0
    return shrinkage * target + (1 - shrinkage) * sample
