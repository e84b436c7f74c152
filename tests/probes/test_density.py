"""The probe of exact densities: the model's own number, whatever the batch, averaged over dequantisations."""

import pytest
import torch

from oodgen.models.glow import Glow
from oodgen.models.likelihoods import Bernoulli
from oodgen.models.vae import VAE
from oodgen.noise import ExampleNoise, RandomNoise
from oodgen.probes.density import FlowParts, LogDensity
from oodgen.scores.likelihood import bound
from oodgen.scores.ratio import input_complexity

INDEX = torch.tensor([5, 2, 40, 7])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Glow((1, 8, 8), steps=2, levels=2, hidden=4)
    model.initialise(model.observe(torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8), RandomNoise()), RandomNoise())
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn_like(value))
    return model.eval()


@pytest.fixture(scope="module")
def x():
    return torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def ask(model, x, index=INDEX, seed=0, **options):
    return LogDensity(**options)(model, x, ExampleNoise(seed, index))


@torch.inference_mode()
def test_evidence_is_the_mean_over_observations(model, x):
    found = ask(model, x, samples=3)
    values = []
    for s in range(3):
        y = model.observe(x, ExampleNoise(0, INDEX, s))
        values.append(model(y, RandomNoise()).log_px)
    assert not torch.equal(values[0], values[1])
    torch.testing.assert_close(found["l"], torch.stack(values).mean(0))
    assert torch.equal(found["l"], found["log_px"])
    assert found["l"].shape == (1, 4) and found["l"].dtype == torch.float32


@torch.inference_mode()
def test_the_parts_of_a_flow_by_hand_and_their_sum(model, x):
    noise = ExampleNoise(0, INDEX)
    y = model.observe(x, noise)
    found = FlowParts()(model, x, noise)
    jacobian = torch.stack(
        [torch.func.jacrev(lambda one: torch.cat([c.flatten() for c in model.encode(one[None])[0]]))(one) for one in y]
    )
    log_det = torch.linalg.slogdet(jacobian.flatten(2).double()).logabsdet
    codes = torch.cat([code.flatten(1) for code in model.encode(y)[0]], 1)
    base = torch.distributions.Normal(0.0, 1.0).log_prob(codes).double().sum(1)
    torch.testing.assert_close(found["log_det"].double(), log_det, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found["base"].double(), base, rtol=1e-5, atol=1e-3)
    whole = ask(model, x)["l"][0] + 64 * torch.tensor(256.0).log()
    torch.testing.assert_close(found["base"] + found["log_det"], whole, rtol=1e-5, atol=1e-3)
    assert not isinstance(VAE((1, 8, 8), 2, [3], [2], 4, Bernoulli("soft")), FlowParts.needs)


def test_one_sample_is_the_observation_that_every_bound_sees(model, x):
    noise = ExampleNoise(0, INDEX)
    with torch.inference_mode():
        torch.testing.assert_close(ask(model, x)["l"], model(model.observe(x, noise), noise).log_px)


@pytest.mark.parametrize("samples", [1, 3])
def test_neither_batch_nor_order_changes_evidence(model, x, samples):
    whole = ask(model, x, samples=samples)["l"]
    parts = torch.cat([ask(model, x[[i]], INDEX[[i]], samples=samples)["l"] for i in range(4)], 1)
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-4)
    order = torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(whole[:, order], ask(model, x[order], INDEX[order], samples=samples)["l"])
    assert (ask(model, x, seed=1, samples=samples)["l"] != whole).all()


def test_existing_scores_take_it(model, x):
    evidence = {f"bounds/{name}": value for name, value in ask(model, x).items()}
    evidence["image/png_bits"] = torch.tensor([100.0, 200.0, 300.0, 400.0])
    assert torch.equal(bound(evidence, k=0), -evidence["bounds/l"][0])
    torch.testing.assert_close(
        input_complexity(evidence), -evidence["bounds/l"][0] / torch.tensor(2.0).log() - evidence["image/png_bits"]
    )
    with pytest.raises(IndexError):
        bound(evidence, k=1)
