"""The evaluation noise: the right distribution, independent across everything it is keyed by, and of nothing else."""

import pytest
import torch
from scipy import stats

from oodgen.noise import ExampleNoise, RandomNoise

CPU = torch.device("cpu")
INDEX = torch.arange(100)


def draw(kind="normal", seed=0, site="q1", index=INDEX, first=0, samples=20, event=(50,)):
    return getattr(ExampleNoise(seed, index, first), kind)(site, (samples, len(index), *event), CPU)


@pytest.mark.parametrize(("kind", "reference"), [("normal", "norm"), ("uniform", "uniform")])
@pytest.mark.parametrize("seed", [0, 1, -7, 2**40])
def test_distribution(kind, reference, seed):
    values = draw(kind, seed).flatten().double()
    n, law = len(values), getattr(stats, reference)()
    assert stats.kstest(values.numpy(), law.cdf).pvalue > 1e-3
    for power in (1, 2, 3, 4):
        expected, spread = law.moment(power), (law.moment(2 * power) - law.moment(power) ** 2) ** 0.5
        assert abs(values.pow(power).mean().item() - expected) < 4.5 * spread / n**0.5


@pytest.mark.parametrize("bits", [0, -1])
def test_the_least_and_the_largest_bits_are_still_inside(bits, monkeypatch):
    monkeypatch.setattr(ExampleNoise, "_bits", lambda *_: torch.tensor([bits]))
    assert 0 < draw("uniform") < 1 and draw("normal").isfinite()


def test_uniform_numbers_stay_inside_the_open_interval_and_reach_its_ends():
    values = draw("uniform", samples=200, event=(200,))  # 4 million
    assert values.dtype == torch.float32
    assert 0 < values.min() < 2e-6 and 1 - 2e-6 < values.max() < 1
    assert draw("normal", samples=200, event=(200,)).isfinite().all()


def pairs():
    base = {"samples": 21, "index": torch.arange(101), "event": (51,)}
    noise = draw(**base)
    yield "seeds", noise, draw(**base, seed=1)
    yield "sites", noise, draw(**base, site="q2")
    yield "sites of both directions", noise, draw(**base, site="p1")
    yield "samples", noise[1:], noise[:-1]
    yield "neighbouring examples", noise[:, 1:], noise[:, :-1]
    yield "elements", noise[..., 1:], noise[..., :-1]
    # an additive key would make the next sample of one example the next example's first
    yield "sample against example", noise[1:, :-1], noise[:-1, 1:]
    yield "example against element", noise[:, 1:, :-1], noise[:, :-1, 1:]
    yield "sample against element", noise[1:, :, :-1], noise[:-1, :, 1:]


@pytest.mark.parametrize(("name", "a", "b"), [pytest.param(*pair, id=pair[0]) for pair in pairs()])
def test_independence(name, a, b):
    a, b = a.flatten().double(), b.flatten().double()
    assert (a != b).float().mean() > 0.999
    for f in (lambda x: x, torch.square, lambda x: (x > 1).double()):
        assert abs(torch.corrcoef(torch.stack([f(a), f(b)]))[0, 1].item()) < 4.5 / len(a) ** 0.5, name


def test_the_number_of_an_example_depends_on_nothing_else():
    whole = draw(samples=6, event=(3, 4))
    # chunks of samples
    torch.testing.assert_close(
        torch.cat([draw(samples=2, event=(3, 4)), draw(samples=4, first=2, event=(3, 4))]), whole, rtol=0, atol=0
    )
    # batches of examples, in any order
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(samples=6, index=order, event=(3, 4)), whole[:, order])
    assert torch.equal(draw(samples=6, index=torch.tensor([41]), event=(3, 4)), whole[:, [41]])
    # the shape of the event is only a view of its elements
    assert torch.equal(draw(samples=6, event=(12,)).view_as(whole), whole)
    # and the global generator is neither used nor moved
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    again = draw(samples=6, event=(3, 4))
    assert torch.equal(again, whole) and torch.equal(torch.rand(3), expected)


def test_noise_for_another_number_of_examples_is_refused():
    with pytest.raises(ValueError, match="100 examples cannot have the batch size 3"):
        ExampleNoise(0, INDEX).normal("q1", (1, 3, 2), CPU)


def test_random_noise_follows_the_global_seed():
    torch.manual_seed(3)
    a = RandomNoise().normal("q1", (2, 3), CPU), RandomNoise().uniform("x", (2, 3), CPU)
    torch.manual_seed(3)
    b = RandomNoise().normal("other", (2, 3), CPU), RandomNoise().uniform("other", (2, 3), CPU)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
