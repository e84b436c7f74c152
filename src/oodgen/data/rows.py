r"""Scaling of rows of numbers, column by column: $y_i = (x_i - a_i) / w_i$.

| way | $a$ | $w$ | fitted on |
|---|---|---|---|
| `minmax` | minimum | maximum - minimum | inliers that are trained on |
| `standard` | mean | standard deviation | inliers that are trained on |
| `minmax_leaky` | minimum | maximum - minimum | all rows, negatives and those of the test sets too |

The last one is what the authors' code of papers/generative_ensembles does: it tells the model how far the frauds reach,
and is there to reproduce, not to detect with. Under `minmax` a row that was not trained on may lie outside [0, 1].
"""

from typing import NamedTuple

import numpy as np

__all__ = ["WAYS", "Scaling", "fit"]

WAYS = ("minmax", "standard", "minmax_leaky")


class Scaling(NamedTuple):
    """A fitted scaling: a and w of each column."""

    shift: list[float]
    width: list[float]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Stored rows (N, D) to scaled ones, float32."""
        return ((x - np.array(self.shift)) / np.array(self.width)).astype(np.float32)


def fit(way: str, x: np.ndarray) -> Scaling:
    """The scaling of rows (N, D); a column that never changes is only shifted, to 0."""
    low, high = x.min(0).astype(np.float64), x.max(0).astype(np.float64)
    shift, width = low, high - low
    if way == "standard":
        shift, width = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    varies = low < high
    return Scaling(np.where(varies, shift, low).tolist(), np.where(varies, width, 1.0).tolist())
