"""The probe of all levels: its numbers are those of the model's bounds, however they are cut into calls."""

import pytest
import torch

from oodgen.errors import UserError
from oodgen.models.hierarchy import BottomUpVAE
from oodgen.models.likelihoods import Bernoulli
from oodgen.noise import ExampleNoise, RandomNoise
from oodgen.probes.bounds import Bounds

INDEX = torch.tensor([5, 2, 40, 7])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    layers = [
        {"latent": 2, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
        {"latent": 3, "dense": True, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
        {"latent": 2, "dense": True, "channels": 2, "kernel": 3, "blocks": 1, "stride": 1},
    ]
    model = BottomUpVAE((1, 6, 5), layers, Bernoulli("dynamic"))
    model.initialise(torch.rand(64, 1, 6, 5), RandomNoise())
    return model.eval()


@pytest.fixture(scope="module")
def x():
    return torch.randint(256, (4, 1, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def ask(model, x, index=INDEX, seed=0, **options):
    return Bounds(**options)(model, x, ExampleNoise(seed, index))


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], rtol=2e-5, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("samples", [(1, 1), (4, 2), (2, 5)])
@torch.inference_mode()
def test_evidence_is_the_mean_of_the_bounds(model, x, samples):
    s, s_k = samples
    found = ask(model, x, samples=s, samples_k=s_k)
    noise = ExampleNoise(0, INDEX)
    y = model.observe(x, noise)  # the pixels are observed once, for all levels and samples
    bounds = [model.bounds(y, noise, [k], [s if k == 0 else s_k])[0] for k in range(3)]
    same(
        found,
        {
            "l": torch.stack([bound.elbo.mean(0) for bound in bounds]),
            "log_px": torch.stack([bound.log_px.mean(0) for bound in bounds]),
            "kl": bounds[0].kls.mean(1),
            "iw": bounds[0].log_weights.double().exp().mean(0).log().float(),
        },
    )
    assert all(value.dtype == torch.float32 for value in found.values())
    torch.testing.assert_close(found["l"][0], found["log_px"][0] - found["kl"].sum(0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("options", [{"samples": 7, "samples_k": 3}, {"samples": 2, "samples_k": 5}, {"samples": 6}])
@pytest.mark.parametrize("budget", [1, 5, 12, 20, 47, 1000])
def test_any_budget_gives_the_same_evidence(model, x, options, budget):
    same(ask(model, x, **options, budget=budget), ask(model, x, **options, budget=100_000))


def test_budget_bounds_the_rows_of_a_call(model, x, monkeypatch):
    rows, bounds = [], model.bounds
    monkeypatch.setattr(
        model,
        "bounds",
        lambda y, noise, ks, samples, *rest: rows.append(len(y) * sum(samples)) or bounds(y, noise, ks, samples, *rest),
    )
    ask(model, x, samples=30, samples_k=4, budget=40)
    assert max(rows) <= 40 and sum(rows) == 4 * (30 + 4 + 4)
    probe = Bounds(samples=30, samples_k=4, budget=80)
    assert probe.batch(model) == 2 and Bounds(samples=1000, budget=10).batch(model) == 1


def test_the_batch_does_not_change_evidence(model, x):
    options = {"samples": 3, "samples_k": 2}
    whole = ask(model, x, **options)
    parts = [ask(model, x[[i]], INDEX[[i]], **options) for i in (2, 0, 3, 1)]
    same(whole, {name: torch.cat([parts[j][name] for j in (1, 3, 0, 2)], -1) for name in whole})
    order = torch.tensor([3, 1, 0, 2])
    same({name: value[..., order] for name, value in whole.items()}, ask(model, x[order], INDEX[order], **options))


def test_importance_bound_of_one_sample_is_the_elbo_and_more_samples_lift_it(model, x):
    one = ask(model, x)
    assert torch.equal(one["iw"], one["l"][0])
    many = ask(model, x, samples=200)
    assert (many["iw"] > many["l"][0]).all()


def test_the_seed_matters_and_many_samples_forget_it(model, x):
    # dynamic binarisation depends on the seed too, so here only black and white pixels
    x = (x > 127).to(torch.uint8) * 255
    a, b = ask(model, x), ask(model, x, seed=1)
    assert (a["l"] != b["l"]).all()
    n = 4000
    a, b = (
        ask(model, x, samples=n, samples_k=n, budget=20_000),
        ask(model, x, seed=1, samples=n, samples_k=n, budget=20_000),
    )
    with torch.inference_mode():
        draws = model.bounds(model.observe(x, RandomNoise()), ExampleNoise(2, INDEX), [0, 1, 2], [500] * 3)
    error = torch.stack([bound.elbo.std(0) for bound in draws]) * (2 / n) ** 0.5
    assert ((a["l"] - b["l"]).abs() < 4.5 * error).all()


@pytest.mark.parametrize("option", [{"up": "sample"}, {"down": "mode"}])
def test_options_reach_the_model(model, x, option):
    plain, other = ask(model, x), ask(model, x, **option)
    assert torch.equal(plain["l"][0], other["l"][0])
    assert (plain["l"][1:] != other["l"][1:]).all()


@pytest.mark.parametrize("option", [{"up": "both"}, {"down": "mean"}])
def test_a_wrong_option_is_one_line(option):
    with pytest.raises(UserError, match=next(iter(option))) as error:
        Bounds(**option)
    assert "\n" not in str(error.value)


def test_the_name_of_evidence_holds_what_changes_it_and_nothing_else():
    assert (
        len({repr(Bounds(**o)) for o in ({}, {"samples": 2}, {"samples_k": 2}, {"up": "sample"}, {"down": "mode"})})
        == 5
    )
    assert repr(Bounds(budget=7)) == repr(Bounds())


@torch.inference_mode()
def test_the_bound_from_the_prior_alone_comes_on_demand_and_changes_nothing_else(model, x):
    plain, more = ask(model, x, samples=3, samples_k=2), ask(model, x, samples=3, samples_k=2, prior=True)
    noise = ExampleNoise(0, INDEX)
    bound = model.bounds(model.observe(x, noise), noise, [3], [2])[0]
    torch.testing.assert_close(more.pop("prior"), bound.log_px.mean(0), rtol=2e-5, atol=2e-4)
    same(more, plain)
