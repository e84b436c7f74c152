"""How often a classifier is right, counted one by one; an ensemble's mean probability decides, not its votes."""

import numpy as np
import pytest
import torch

from oodgen.data.preprocess import TestSet as Examined
from oodgen.evaluation.accuracy import accuracy_rows
from oodgen.metrics import proportion

WHO = ("e", "f", 3)


def labelled(y):
    return Examined(np.zeros((7, 1)), "mnist", "test", "", y)


def test_right_answers_are_counted():
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    y = logits.argmax(0).numpy()
    y[:2] = (y[:2] + 1) % 4
    (row,) = accuracy_rows(WHO, {"image/mean": torch.zeros(7), "classifier/logits": logits}, labelled(y))
    assert row[:7] == (*WHO, "mnist", "mnist", "class", "accuracy")
    assert row.value == 5 / 7 and row.low < 5 / 7 < row.high and (row.n_in, row.protocol) == (7, "full")


def test_of_an_ensemble_the_mean_probability_decides():
    # two members lean to class 0, the third is sure of class 1
    p = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.01, 0.99]])[:, :, None].expand(3, 2, 7)
    for y, value in ((1, 1.0), (0, 0.0)):
        (row,) = accuracy_rows(WHO, {"members/logits": p.log()}, labelled(np.full(7, y)))
        assert (row.value, row.low, row.high) == (value, value, value)


@pytest.mark.parametrize(
    ("evidence", "y"),
    [
        ({"bounds/l": torch.zeros(1, 7)}, np.zeros(7)),
        ({"classifier/logits": torch.zeros(4, 7)}, None),
        ({"classifier/logits": torch.zeros(1, 7)}, np.zeros(7)),  # inliers against negatives: no class
    ],
)
def test_where_nothing_can_be_right_nothing_is_said(evidence, y):
    assert accuracy_rows(WHO, evidence, labelled(y)) == []


def test_the_interval_of_a_share_is_that_of_resampled_examples():
    hits = np.arange(50) < 35
    drawn = hits[np.random.default_rng(1).integers(0, 50, (4000, 50))].mean(1)
    said = proportion(35, 50, 4000)
    assert said.value == 0.7
    np.testing.assert_allclose(said[1:], np.quantile(drawn, [0.025, 0.975]), atol=0.021)
