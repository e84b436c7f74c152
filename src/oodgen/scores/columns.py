r"""Evidence as a table, a row for each example and a column for each number of it, and scales that columns share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from torch import Tensor

from oodgen.errors import Diverged

__all__ = ["Deviations", "NormalScores", "check_finite", "table"]


def table(evidence: Mapping[str, Tensor], patterns: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The columns of all evidence whose names match a pattern, and their numbers (N, columns), float64.

    Evidence (..., N) is a column for each leading index: `bounds/kl` (3, N) is `bounds/kl[0]` to `bounds/kl[2]`, and
    that of two members, (2, 3, N), `members/kl[0,0]` to `members/kl[1,2]`. Columns are sorted by the name of the
    evidence and then by index.

    Arguments:
        evidence: Named tensors whose last axis is the example.
        patterns: Of shells, as `bounds/*`; one may match nothing (a flow has no `bounds/kl`) if another does.

    Raises:
        KeyError: no evidence matches.
    """
    found = sorted(name for name in evidence if any(fnmatchcase(name, pattern) for pattern in patterns))
    if not found:
        raise KeyError(", ".join(patterns))
    names: list[str] = []
    parts = []
    for name in found:
        value = evidence[name].double().numpy()
        indices = np.ndindex(*value.shape[:-1])
        names += [f"{name}[{','.join(map(str, index))}]" if index else name for index in indices]
        parts.append(value.reshape(-1, value.shape[-1]))
    return tuple(names), np.concatenate(parts).T


@dataclass(frozen=True, eq=False)
class NormalScores:
    r"""Each column by its rank among n reference values, as the quantile of a standard normal distribution.

    $z(x) = \Phi^{-1}(u)$, $u = (\#\{x_i < x\} + \#\{x_i \le x\} + 1) / (2 (n + 1))$: any increasing transformation of a
    column leaves z of all within the reference's range as it is, and $2 \min(u, 1 - u)$ is the two-sided conformal
    p-value. Ranks say nothing of how far outside the range a value is, so there the tail decays exponentially,
    $1 - u(x) = e^{-(x - x_{\max}) / \beta} / (2 (n + 1))$ with $\beta$ the mean excess of the reference's largest tenth
    over the next value, the maximum-likelihood estimate for an exponential tail; likewise below. So z keeps growing,
    as $\sqrt{2 (x - x_{\max}) / \beta}$.

    A column that is constant on the reference has no scale: z is 0 for the constant, and for any other value that of
    the extremes, of p-value 1 / (n + 1). A value that is no number, or infinite, is infinitely far.

    Arguments:
        reference: The reference values (n, columns), each column ascending.
        decay: $\beta$ below and above, (2, columns); inf for constant columns.
    """

    reference: np.ndarray
    decay: np.ndarray

    @classmethod
    def fit(cls, rows: np.ndarray) -> "NormalScores":
        """The scores among reference rows (n, columns), which must be finite."""
        ascending = np.sort(rows, axis=0)
        n = len(rows)
        tail = max(1, n // 10)
        threshold = min(tail, n - 1)
        below = ascending[threshold] - ascending[:tail].mean(0)
        above = ascending[-tail:].mean(0) - ascending[-1 - threshold]
        # a tail of equal values has no excess of its own
        spread = np.abs(ascending - np.median(ascending, axis=0)).mean(0)
        spread = np.where(ascending[0] < ascending[-1], spread, np.inf)
        return cls(ascending, np.stack([np.where(excess > 0, excess, spread) for excess in (below, above)]))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """z of every number of `rows` (N, columns)."""
        from scipy.special import ndtri, ndtri_exp

        n = len(self.reference)
        smallest = -np.log(2 * (n + 1))
        z = np.empty(rows.shape)
        for j, x in enumerate(rows.T):
            column, (low, high) = self.reference[:, j], self.decay[:, j]
            counts = np.searchsorted(column, x, "left") + np.searchsorted(column, x, "right")
            z[:, j] = ndtri((counts + 1) / (2 * (n + 1)))
            below, above = x < column[0], x > column[-1]
            z[below, j] = ndtri_exp(smallest - (column[0] - x[below]) / low)
            z[above, j] = -ndtri_exp(smallest - (x[above] - column[-1]) / high)
        return np.where(np.isneginf(rows), -np.inf, np.where(np.isfinite(rows), z, np.inf))


@dataclass(frozen=True, eq=False)
class Deviations:
    r"""Each column less the reference's median, in units of $\sqrt{\pi / 2}$ times its mean absolute deviation from it.

    Of a normal column this unit is the standard deviation. Constant columns are as in `NormalScores`.

    Arguments:
        center, width: Of each column.
        other: |z| of a value that differs from a constant column.
    """

    center: np.ndarray
    width: np.ndarray
    other: float

    @classmethod
    def fit(cls, rows: np.ndarray) -> "Deviations":
        """The scale of reference rows (n, columns), which must be finite."""
        from scipy.special import ndtri

        center = np.median(rows, axis=0)
        width = np.sqrt(np.pi / 2) * np.abs(rows - center).mean(0)
        return cls(center, width, float(-ndtri(0.5 / (len(rows) + 1))))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """The scaled numbers of `rows` (N, columns)."""
        centred = rows - self.center
        return np.where(
            self.width > 0, centred / np.where(self.width > 0, self.width, 1), self.other * np.sign(centred)
        )


def check_finite(names: Sequence[str], rows: np.ndarray) -> None:
    """Raise Diverged, naming the first column of the reference with a number that is not finite."""
    lost = (~np.isfinite(rows)).sum(0)
    if lost.any():
        j = int(lost.argmax())
        raise Diverged(
            f"{names[j]} is not finite for {lost[j]:,} of the {len(rows):,} inliers that would be its reference; "
            "name the other columns, as scores.evidence.columns=[image/*], or choose evidence@scores=none"
        )
