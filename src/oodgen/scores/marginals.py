r"""Densities of the evidence that look at each column by itself and add up. Larger = more out-of-distribution."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from oodgen.scores.columns import NormalScores
from oodgen.scores.evidence import EvidenceDensity, Function

__all__ = ["Copod", "KernelDensities", "PValues"]

CELLS = 8  # of the grid in a bandwidth
REACH = 8  # of a kernel, in bandwidths
WIDEST = 2**13  # a reference's range, in bandwidths


@dataclass(frozen=True)
class KernelDensities(EvidenceDensity):
    r"""DoSE: $-\sum_k \log \hat p_k(t_k)$, $\hat p_k$ the kernel density estimate of column k on the reference; nats.

    Normal kernels with Silverman's bandwidth $h = 0.9 \min(s, \mathrm{IQR} / 1.34) n^{-1/5}$, or the reference's range
    / 8192 where that is more. Scaling a column changes the sum by a constant only. A column that is constant on the
    reference has the bandwidth of a standard normal one, in the units of `NormalScores`.

    The reference's values are shared out to the points of a grid of h / 8 and log p is interpolated; farther than 8 h
    from all of them it is the kernel of the nearest one.

    Source: Morningstar et al. 2021 (Density of States Estimation for Out-of-Distribution Detection), section 3.
    """

    def _density(self, rows: np.ndarray, normal: NormalScores) -> Function:
        constant = rows.min(0) == rows.max(0)
        columns = [_log_kernel_density(np.sort(column)) for column in np.where(constant, 0, rows).T]

        def minus_log_p(x: np.ndarray) -> np.ndarray:
            if constant.any():
                x = np.where(constant, normal(x), x)
            return -np.sum([log_p(x[:, j]) for j, log_p in enumerate(columns)], axis=0)

        return minus_log_p


@dataclass(frozen=True)
class Copod(EvidenceDensity):
    r"""COPOD: $\max(-\sum_k \log F_k, -\sum_k \log \bar F_k, -\sum_k \log W_k)$; nats.

    $F_k(x)$ and $\bar F_k(x)$ are the probabilities of the tails left and right of column k's value, and $W_k$ is the
    left one if the column is skewed to the left on the reference, else the right one. They are $\Phi(z)$ and
    $\Phi(-z)$ of `NormalScores`: the empirical ones within the reference's range, exponential beyond, where the
    empirical ones are 0.

    Source: Li et al. 2020 (COPOD: Copula-Based Outlier Detection), algorithm 1.
    """

    def _density(self, rows: np.ndarray, normal: NormalScores) -> Function:
        from scipy.special import log_ndtr

        left = ((rows - rows.mean(0)) ** 3).mean(0) < 0

        def largest(x: np.ndarray) -> np.ndarray:
            z = normal(x)
            return np.max([-log_ndtr(s * z).sum(1) for s in (1, -1, np.where(left, 1, -1))], axis=0)

        return largest


@dataclass(frozen=True)
class PValues(EvidenceDensity):
    r"""The two-sided p-values $p_k = 2 \Phi(-|z_k|)$ of all columns (see `NormalScores`) in one number.

    Two-sided since without outliers nobody knows which direction is odd: a bound may be too high as well as too low. No
    rule for the distribution of the number is used, for columns depend on each other; a detector calibrates it.

    Arguments:
        columns: See `EvidenceDensity`.
        how: "fisher": $-2 \sum_k \log p_k$ (Fisher 1932), odd in many columns. "minimum": $-\log(d \min_k p_k)$ of d
            columns (Bonferroni), odd in one; not cut at 0, which would make equals of most inliers.
    """

    how: Literal["fisher", "minimum"] = "fisher"

    def _density(self, rows: np.ndarray, normal: NormalScores) -> Function:
        from scipy.special import log_ndtr

        def combined(x: np.ndarray) -> np.ndarray:
            log_p = np.log(2) + log_ndtr(-np.abs(normal(x)))
            return -2 * log_p.sum(1) if self.how == "fisher" else -np.log(x.shape[1]) - log_p.min(1)

        return combined


def _log_kernel_density(values: np.ndarray) -> Function:
    """log p of a column as a function, from the reference's values (n,), ascending."""
    n, width = len(values), values[-1] - values[0]
    low, high = np.quantile(values, [0.25, 0.75])
    spread = min(s for s in (values.std(), (high - low) / 1.34) if s > 0) if width > 0 else 1.0
    h = max(0.9 * spread * n**-0.2, width / WIDEST)
    margin, step = REACH * CELLS, h / CELLS
    grid = values[0] + step * np.arange(-margin, np.ceil(width / step) + margin + 2)
    place = (values - grid[0]) / step
    cell = place.astype(int)
    mass = np.bincount(cell, 1 - place + cell, len(grid)) + np.bincount(cell + 1, place - cell, len(grid))
    kernel = np.exp(-0.5 * (np.arange(-margin, margin + 1) / CELLS) ** 2)
    total = np.convolve(mass, kernel, "same")
    peak = -np.log(n * h * np.sqrt(2 * np.pi))  # log of one kernel's
    # where there is no mass, so low that the nearest kernel is more
    log_p = np.where(total > 0, peak + np.log(np.where(total > 0, total, 1)), -1e300)

    def function(x: np.ndarray) -> np.ndarray:
        after = np.searchsorted(values, x)
        nearest = np.minimum(np.abs(x - values[(after - 1).clip(0)]), np.abs(x - values[after.clip(max=n - 1)]))
        return np.maximum(np.interp(x, grid, log_p, -1e300, -1e300), peak - 0.5 * (nearest / h) ** 2)

    return function
