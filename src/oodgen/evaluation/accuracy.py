"""How often a classifier is right, of the inlier's test split: as a row beside the scores."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from oodgen.data.preprocess import TestSet
from oodgen.metrics import proportion
from oodgen.runs.results import Row
from oodgen.scores.classifier import most_probable

__all__ = ["accuracy"]


def accuracy(who: tuple[str, str, int], evidence: Mapping[str, Tensor], test: TestSet) -> list[Row]:
    r"""$\frac1N \sum_n [\arg\max_c p(c | x_n) = y_n]$ with its bootstrap interval, as `accuracy` of `class`.

    Nothing where no probe gave logits of several classes, or the set has no labels. Of a bottleneck the logits are
    those of its mean code, and of a deep ensemble p(c|x) is the mean of its members'.

    Arguments:
        who: Experiment, fingerprint and seed.
        evidence: Of the inlier's test split.
        test: The split.
    """
    probe = next((name.removesuffix("/logits") for name in evidence if name.endswith("/logits")), None)
    if probe is None or test.y is None or evidence[f"{probe}/logits"].shape[-2] < 2:
        return []
    right = most_probable(evidence, probe).numpy() == test.y
    said, n = proportion(int(np.count_nonzero(right)), len(right)), len(right)
    return [Row(*who, test.name, test.name, "class", "accuracy", *said, "full", n, n)]
