"""Evidence as a table, and the scales of its columns, against slow definitions."""

from statistics import NormalDist, mean, median

import numpy as np
import pytest
import torch

from oodgen.errors import Diverged
from oodgen.scores.columns import Deviations, NormalScores, check_finite, table

QUANTILE = NormalDist().inv_cdf


def test_a_column_for_each_leading_index_sorted_by_name():
    evidence = {
        "members/kl": torch.arange(12.0).view(2, 3, 2),
        "image/mean": torch.tensor([5.0, 6.0]),
        "bounds/l": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "other/x": torch.zeros(2),
    }
    names, rows = table(evidence, ["members/*", "image/*", "bounds/*", "path/*"])
    assert names == (
        *("bounds/l[0]", "bounds/l[1]", "image/mean"),
        *(f"members/kl[{i},{j}]" for i in range(2) for j in range(3)),
    )
    assert rows.dtype == np.float64
    assert rows.tolist() == [[1, 3, 5, 0, 2, 4, 6, 8, 10], [2, 4, 6, 1, 3, 5, 7, 9, 11]]
    assert table(dict(reversed(evidence.items())), ["bounds/*", "image/*", "members/*"])[0] == names
    with pytest.raises(KeyError, match="path/"):
        table(evidence, ["path/*", "bounds"])


def reference_and_examples():
    rng = np.random.default_rng(0)
    return np.round(rng.standard_normal((40, 1)), 1), np.round(3 * rng.standard_normal((200, 1)), 1)  # with ties


def test_normal_scores_are_ranks_with_exponential_tails():
    values, x = reference_and_examples()
    ascending, n = sorted(values[:, 0]), len(values)
    mean_excess = mean(ascending[-4:]) - ascending[-5], ascending[4] - mean(ascending[:4])

    def slow(number):
        if number > ascending[-1]:
            return -QUANTILE(np.exp(-(number - ascending[-1]) / mean_excess[0]) / (2 * (n + 1)))
        if number < ascending[0]:
            return QUANTILE(np.exp(-(ascending[0] - number) / mean_excess[1]) / (2 * (n + 1)))
        below, ties = sum(v < number for v in ascending), sum(v == number for v in ascending)
        return QUANTILE((below + ties / 2 + 1 / 2) / (n + 1))

    given = NormalScores.fit(values)(x)[:, 0]
    assert {"below", "above"} == {"below" if z < 0 else "above" for z in given[np.abs(given) > 3]}
    np.testing.assert_allclose(given, [slow(number) for number in x[:, 0]], atol=1e-8)


def test_within_the_range_only_ranks_matter_and_beyond_it_distance_does():
    values, x = reference_and_examples()
    x = x[(x >= values.min()) & (x <= values.max())].reshape(-1, 1)
    np.testing.assert_array_equal(NormalScores.fit(np.exp(values))(np.exp(x)), NormalScores.fit(values)(x))
    far = NormalScores.fit(values)(values.max() + np.array([[0], [0.1], [1], [100], [1e6], [1e30]]))[:, 0]
    assert (np.diff(far) > 0).all() and np.isfinite(far).all()


def test_deviations_are_from_the_median():
    values, x = reference_and_examples()
    centre = median(values[:, 0])
    width = mean(abs(v - centre) for v in values[:, 0]) * np.sqrt(np.pi / 2)
    np.testing.assert_allclose(Deviations.fit(values)(x), (x - centre) / width)


@pytest.mark.parametrize("scale", [NormalScores, Deviations])
def test_a_constant_column_and_numbers_that_are_not_finite(scale):
    extreme = QUANTILE(1 - 1 / 10)  # u of the extremes of 4
    given = scale.fit(np.full((4, 1), 7.0))(np.array([[7.0], [7.1], [-1e9]]))[:, 0]
    np.testing.assert_allclose(given, [0, extreme, -extreme], atol=1e-12)
    lost = scale.fit(np.array([[1.0], [2.0]]))(np.array([[np.inf], [-np.inf], [np.nan]]))
    assert not np.isfinite(lost).any()
    with pytest.raises(Diverged, match=r"b is not finite for 2 of the 3 "):
        check_finite(["a", "b"], np.array([[0, np.nan], [0, 1], [0, np.inf]]))


def test_a_tail_of_equal_values_borrows_the_spread_of_all():
    scores = NormalScores.fit(np.array([[0.0]] * 5 + [[1.0]] * 15))([[1.0], [1.5], [3.0]] * np.ones(1))[:, 0]
    assert (np.diff(scores) > 0.1).all() and np.isfinite(scores).all()
