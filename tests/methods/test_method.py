"""What the methods share: validation by inliers alone, the noise of a step, and the words for what is not finite."""

from functools import partial

import pytest
import torch

from oodgen.data.resident import Batch
from oodgen.errors import Diverged, UserError
from oodgen.methods.bpvae import BPVAE
from oodgen.methods.likelihood import MaximumLikelihood
from oodgen.methods.method import Method
from oodgen.methods.negative_sampling import NegativeSampling
from oodgen.models.likelihoods import Bernoulli
from oodgen.models.priors import Mixture
from oodgen.models.vae import VAE, Isotropic
from oodgen.noise import ExampleNoise

sgd = partial(torch.optim.SGD, lr=0.0)
METHODS = {
    "bpvae": lambda model, **options: BPVAE(model, sgd, **options),
    "dataset": lambda model, **options: NegativeSampling(model, sgd, "dataset", **options),
    "generated": lambda model, **options: NegativeSampling(model, sgd, "generated", **options),
}


def tiny():
    torch.manual_seed(0)
    prior = Isotropic(0.2, 1.5)
    return VAE((1, 8, 8), 3, [4], [2], 4, Bernoulli("dynamic"), batch_norm=True, prior=prior)


def images(seed, count=6):
    return torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", METHODS)
def test_validation_is_the_bound_of_inliers_under_the_models_prior(name, monkeypatch):
    method, x, index = METHODS[name](tiny(), seed=4), images(1), torch.arange(10, 16)
    method.eval()
    logged = []
    monkeypatch.setattr(method, "log_dict", lambda numbers, batch_size: logged.append((numbers, batch_size)))
    with torch.no_grad():
        for streams in ({}, {"auxiliary": (images(2), images(3)), "negative": images(4)}):
            torch.rand(3)  # what was drawn before has no say
            method.validation_step(Batch(x, index, **streams), 0)
        noise = ExampleNoise(4, index)
        y = method.model.observe(x, noise)
        q = method.model.encoder(y)
        kl = (((q.mean - 0.2) ** 2 + q.stddev**2) / 2.25 - 1 - (q.stddev**2 / 2.25).log()).sum(1).mean() / 2
        log_px = method.model(y, noise).log_px.mean()
    for numbers, size in logged:
        assert size == 6 and numbers.keys() == {"val/bound", "val/log_px", "val/kl_1"}
        torch.testing.assert_close(numbers["val/kl_1"], kl)
        torch.testing.assert_close(numbers["val/log_px"], log_px)
        torch.testing.assert_close(numbers["val/bound"], log_px - kl)


@pytest.mark.parametrize("name", METHODS)
def test_a_second_prior_needs_a_kl_in_closed_form(name):
    model = tiny()
    model.prior = Mixture(3, 2)
    with pytest.raises(UserError, match=r"which a Mixture prior does not have; choose prior@model\.prior=standard"):
        METHODS[name](model)


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_a_function_of_seed_and_step(name):
    def loss(seed=3, step=7, before=0):
        method = METHODS[name](tiny(), seed=seed)
        torch.rand(before)
        batch = Batch(images(1), torch.arange(6), step, auxiliary=(images(2),), negative=images(3))
        return method.loss(batch, method.noise(batch))[0].item()

    assert loss() == loss(before=5)
    assert len({loss(), loss(step=8), loss(seed=4), loss(step=7 + 2**32)}) == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("log_px", r"log p\(x\|z\)"),
        ("kl_1", "the KL of layer z1"),
        ("kl_12", "the KL of layer z12"),
        ("simple_2", "the bound of simple set 2"),
        ("kl_negative", "the KL of the negatives"),
        ("kl_generated", "the KL of generated images"),
        ("penalty", "the gradient penalty"),
        ("cross_entropy", "the cross entropy"),
    ],
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_named(name, words, value):
    method, batch = Method(tiny(), sgd), Batch(images(1), torch.arange(6), 5)
    terms = {"log_px": torch.tensor(-3.0), "kl_1": torch.tensor(2.0), "bound": torch.tensor(value)}
    with pytest.raises(Diverged, match=rf"^the bound is not finite at step 5, in {words}$"):
        method.check_terms(batch, terms | {name: torch.tensor(value)})


@pytest.mark.parametrize(
    ("name", "stream"), [("bpvae", "negative"), ("dataset", "auxiliary"), ("generated", "negative"), (None, "negative")]
)
def test_a_stream_that_would_go_unused_is_refused(name, stream):
    make = METHODS[name] if name else lambda model: MaximumLikelihood(model, sgd)
    auxiliary = (images(2),) if stream == "auxiliary" else ()
    batch = Batch(images(1), torch.arange(6), 0, auxiliary=auxiliary, negative=images(3))
    with pytest.raises(UserError, match=f"data.{stream} is set, .* does not use {stream} examples"):
        make(tiny()).initialise(batch)


def test_batches_for_an_ensemble_are_refused_by_a_single_model():
    batch = Batch.of_members([Batch(images(m), torch.arange(6), 0) for m in range(3)])
    with pytest.raises(UserError, match=r"data\.members=3 is for ensembles, but MaximumLikelihood trains one model"):
        MaximumLikelihood(tiny(), sgd).initialise(batch)
