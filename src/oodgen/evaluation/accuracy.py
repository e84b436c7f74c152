"""The accuracy of a classifier on the inlier's test split, as a row of results."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from oodgen.data.preprocess import TestSet
from oodgen.metrics import proportion
from oodgen.runs.results import Row
from oodgen.scores.classifier import most_probable

__all__ = ["accuracy_rows"]


def accuracy_rows(run_key: tuple[str, str, int], evidence: Mapping[str, Tensor], test: TestSet) -> list[Row]:
    r"""$\frac1N \sum_n [\arg\max_c p(c | x_n) = y_n]$ with its bootstrap interval: metric `accuracy` of score `class`.

    Empty without logits of several classes or without labels. A VIB's logits are those of its mean code; for a deep
    ensemble p(c|x) is the mean over members.

    Arguments:
        run_key: Experiment, fingerprint and seed.
        evidence: Evidence of the inlier's test split.
        test: The split.
    """
    probe = next((name.removesuffix("/logits") for name in evidence if name.endswith("/logits")), None)
    if probe is None or test.y is None or evidence[f"{probe}/logits"].shape[-2] < 2:
        return []
    right = most_probable(evidence, probe).numpy() == test.y
    interval, n = proportion(int(np.count_nonzero(right)), len(right)), len(right)
    return [Row(*run_key, test.name, test.name, "class", "accuracy", *interval, "full", n, n)]
