"""Whether a layer is used: closed forms, and a layer that has collapsed."""

import math

import pytest
import torch
from torch.distributions import Normal

from oodgen.models.information import active_units, mutual_information
from oodgen.noise import ExampleNoise


def codes(n, weight, scale, seed=0):
    """q(z | x) = N(W x, s^2) of x ~ N(0, I)."""
    x = torch.randn(n, weight.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mean = x @ weight.T
    return Normal(mean, torch.as_tensor(scale, dtype=torch.float64).expand_as(mean))


def information(q, seed=0):
    return mutual_information(q, ExampleNoise(seed, torch.arange(len(q.mean)))).item()


def test_information_of_a_linear_gaussian_code():
    weight, scale = torch.tensor([[1.0, 0.5], [0.0, 0.8]], dtype=torch.float64), 0.7
    n, exact = 3000, 0.5 * torch.logdet(torch.eye(2) + weight @ weight.T / scale**2).item()
    found = [information(codes(n, weight, scale, seed), seed) for seed in range(3)]
    assert sum(found) / 3 == pytest.approx(exact, abs=0.04)


def test_information_against_all_pairs():
    q = codes(150, torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 0.9)
    q = Normal(q.mean.view(150, 2, 2), torch.rand(150, 2, 2, dtype=torch.float64) + 0.2)
    noise = ExampleNoise(3, torch.arange(150))
    z = q.mean.flatten(1) + q.stddev.flatten(1) * noise.normal("information", (1, 150, 4), torch.device("cpu"))[0]
    pairs = Normal(q.mean.flatten(1), q.stddev.flatten(1)).log_prob(z.unsqueeze(1)).sum(2)  # (z_n, x_m)
    expected = (pairs.diagonal() - pairs.logsumexp(1) + math.log(150)).mean().item()
    assert mutual_information(q, noise).item() == pytest.approx(expected, rel=1e-9)


def test_a_collapsed_layer_says_nothing_and_a_sharp_one_names_the_example():
    n, ones = 300, torch.ones(3, 3, dtype=torch.float64)
    collapsed = Normal(torch.full((n, 5), 0.3), torch.full((n, 5), 1.7))
    assert active_units(collapsed) == 0 and information(collapsed) == pytest.approx(0, abs=1e-9)
    assert information(codes(n, ones, 1e-6)) == pytest.approx(math.log(n), abs=1e-6)


def test_units_are_active_above_the_threshold():
    g = torch.Generator().manual_seed(0)
    mean = torch.randn(5000, 2, 3, generator=g) * torch.tensor([[0.0, 0.05, 0.09], [0.11, 0.5, 2.0]])
    assert active_units(Normal(mean + 4, torch.ones(2, 3))) == 3
