r"""Scaling of tabular rows, column by column: $y_i = (x_i - a_i) / w_i$.

| scaling | $a$ | $w$ | fitted on |
|---|---|---|---|
| `minmax` | minimum | maximum - minimum | inliers of the training part |
| `standard` | mean | standard deviation | inliers of the training part |
| `minmax_leaky` | minimum | maximum - minimum | all rows, including negatives and test sets |

`minmax_leaky` is that of the authors' code of papers/generative_ensembles; it leaks the range of the frauds and is for
reproduction only. Under `minmax` rows that were not trained on may lie outside [0, 1].
"""

from typing import NamedTuple

import numpy as np

__all__ = ["Scaling", "fit_scaling"]


class Scaling(NamedTuple):
    """A fitted scaling: a and w of each column."""

    shift: list[float]
    width: list[float]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Stored rows (N, D) to scaled ones, float32."""
        return ((x - np.array(self.shift)) / np.array(self.width)).astype(np.float32)


def fit_scaling(scaling: str, x: np.ndarray) -> Scaling:
    """The scaling fitted on rows (N, D); a constant column is only shifted, to 0."""
    low, high = x.min(0).astype(np.float64), x.max(0).astype(np.float64)
    minmax, standard = (low, high - low), (x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64))
    shift, width = {"minmax": minmax, "minmax_leaky": minmax, "standard": standard}[scaling]
    varies = low < high
    return Scaling(np.where(varies, shift, low).tolist(), np.where(varies, width, 1.0).tolist())
