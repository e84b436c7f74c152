"""Flips are involutions; noise is what it says, seeded, and one kind is no function of the other."""

import numpy as np
import pytest

from oodgen.data.transforms import gaussian_noise, hflip, uniform_noise, vflip

X = np.random.default_rng(0).integers(0, 256, (500, 3, 8, 10), np.uint8)


def test_flips():
    left, down = hflip().apply(X, 0), vflip().apply(X, 0)
    for row, column in ((0, 0), (3, 7)):
        np.testing.assert_array_equal(left[:, :, row, column], X[:, :, row, 9 - column])
        np.testing.assert_array_equal(down[:, :, row, column], X[:, :, 7 - row, column])
    np.testing.assert_array_equal(hflip().apply(left, 1), X)
    np.testing.assert_array_equal(vflip().apply(down, 1), X)


@pytest.mark.parametrize("make", [uniform_noise, gaussian_noise])
def test_noise_is_seeded_and_independent(make):
    one, again, other = (make().apply(X, seed) for seed in (1, 1, 2))
    assert one.shape == X.shape and one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    for unrelated in (other, X, np.roll(one, 1, 0), np.roll(one, 1, -1)):
        assert abs(np.corrcoef(one.ravel(), unrelated.ravel())[0, 1]) < 0.02


def test_kinds_are_independent():
    assert abs(np.corrcoef(uniform_noise().apply(X, 1).ravel(), gaussian_noise().apply(X, 1).ravel())[0, 1]) < 0.02


def test_distributions():
    uniform, gaussian = uniform_noise().apply(X, 0), gaussian_noise().apply(X, 0) / 255
    counts = np.bincount(uniform.ravel(), minlength=256)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 350  # chi-squared with 255 degrees: 99.99 % below
    assert gaussian.mean() == pytest.approx(0.5, abs=0.005)
    # one in 22 draws lies beyond two standard deviations, and is clipped
    assert (gaussian == 0).mean() == pytest.approx(0.0233, abs=0.003)
    assert (np.abs(gaussian - 0.5) < 0.25).mean() == pytest.approx(0.6827, abs=0.01)
    dim = gaussian_noise(mean=0.2, sd=0.01).apply(X, 0) / 255
    assert dim.mean() == pytest.approx(0.2, abs=0.002) and dim.std() == pytest.approx(0.01, abs=0.001)
