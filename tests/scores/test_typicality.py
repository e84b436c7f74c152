"""Typicality: a distance from the mean of inliers, whichever side."""

import pytest
import torch

from oodgen.scores.typicality import Typicality


def test_distance_from_the_mean_of_the_reference():
    inlier = {"bounds/l": torch.tensor([[-10.0, -20.0, -30.0], [0.0, 0.0, 0.0]])}
    other = {"bounds/l": torch.tensor([[-5.0, -20.0, -50.0], [1.0, 1.0, 1.0]])}
    score = Typicality()
    assert score.fit(inlier)(other).tolist() == [15, 0, 30]
    assert score.reference is None  # fitting returns a new score
    with pytest.raises(ValueError, match="must be fitted"):
        score(other)
