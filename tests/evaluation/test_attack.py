"""The adversarial set: one step against the gradient of what the model says, on stored images."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from oodgen.data.adversarial import adversarial
from oodgen.data.catalog import Dataset
from oodgen.data.module import OODDataModule
from oodgen.data.preprocess import TestSet as Examined
from oodgen.data.transforms import gaussian_noise
from oodgen.errors import UserError
from oodgen.evaluation import attack
from oodgen.models.density import Attackable, Bound, Density
from oodgen.models.ensemble import Ensemble
from oodgen.models.glow import Glow
from oodgen.models.likelihoods import Bernoulli, LogisticMixture
from oodgen.models.priors import Flow
from oodgen.models.vae import VAE
from oodgen.noise import ExampleNoise

COUNT = 24


def vae(likelihood=None, **options):
    torch.manual_seed(0)
    model = VAE((1, 8, 8), 3, [4, 5], [2, 2], 4, likelihood or Bernoulli("soft"), **options)
    with torch.no_grad():
        model.encoder.head.weight *= 3
        model.decoder.lift[0].weight *= 10
    return model.eval()


def glow():
    torch.manual_seed(0)
    model = Glow((1, 8, 8), steps=2, levels=2, hidden=8).eval()
    x = torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8)
    model.initialise(model.observe(x, ExampleNoise(0, torch.arange(50))), ExampleNoise(0, torch.arange(50)))
    for value in model.parameters():
        if not value.any():  # what starts at zero would leave the couplings idle
            nn.init.normal_(value, std=0.1)
    return model


MODELS = {
    "soft": vae,
    "flow prior": lambda: vae(prior=Flow(3, 2, (16,)), hidden=6, centred=True),
    "binarised": lambda: vae(Bernoulli("dynamic")),
    "logistic": lambda: vae(LogisticMixture(2, "exact")),
    "exact": glow,
}


def evaluated(model, seed=0):
    return SimpleNamespace(model=model, device=SimpleNamespace(torch=torch.device("cpu")), seed=seed)


INLIER = Examined(np.zeros((COUNT, 1, 8, 8), np.uint8), "inlier", "test", "hash")


def made(model, seed=0, **options):
    return attack.make_sets(evaluated(model, seed), {"adversarial": adversarial(**options)}, INLIER)["adversarial"]


@torch.no_grad()
def said(model, x):
    """What the model says of stored images with noise that no attack has seen, (N,)."""
    found = []
    for s in range(50):
        noise = ExampleNoise(9, torch.arange(len(x)), s)
        found.append(model.plausibility(model.observe(torch.tensor(x), noise), noise))
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_raises_what_the_attacked_model_says(name):
    model = MODELS[name]()
    # a short step, which does not overshoot on a curved density, from noise away from black and white, whose bins are
    # open in the logistic likelihood: to leave them costs more than a gradient inside of them knows
    noise = gaussian_noise(0.5, 0.1).apply(INLIER.x, 0)
    raised = said(model, made(model, eps=0.04, sigma=0.1).x) - said(model, noise)
    assert (raised > 0).float().mean() >= 0.95 and raised.mean() > 0.1
    sign = torch.randint(2, noise.shape, generator=torch.Generator().manual_seed(0)).numpy() * 2 - 1
    aimless = said(model, adversarial(eps=0.04).step(noise, sign)) - said(model, noise)
    assert raised.mean() > 3 * aimless.mean().abs()


def test_the_papers_step_raises_the_likelihood_of_a_vae():
    model = vae()
    raised = said(model, made(model).x) - said(model, gaussian_noise().apply(INLIER.x, 0))
    assert (raised > 0).all()


def test_images_are_stored_ones_within_eps_of_the_noise():
    found, start = made(vae(), eps=0.3), gaussian_noise(0.5, 0.25).apply(INLIER.x, 0)
    assert found.x.dtype == np.uint8 and found.x.shape == INLIER.x.shape and found.name == "adversarial"
    moved = found.x.astype(int) - start
    assert np.abs(moved).max() <= 77
    # 0.3 of 255 is 76.5, rounded to even: every pixel moves by the whole step or up to black or white
    assert np.isin(np.abs(moved), (76, 77))[(found.x > 0) & (found.x < 255)].all()
    assert (moved > 0).any() and (moved < 0).any()
    assert (start.astype(int) + 76 > 255).any() and found.x.max() == 255 and found.x.min() == 0


def test_the_set_is_a_function_of_model_and_seed():
    model = vae()
    one, two = made(model), made(model)
    assert np.array_equal(one.x, two.x) and one.sha256 == two.sha256
    torch.manual_seed(5)
    assert np.array_equal(one.x, made(model).x), "torch's generator has a say"
    few = made(model, count=5)
    assert np.array_equal(few.x, one.x[:5]), "the other images have a say"
    with torch.no_grad():
        model.decoder.lift[0].weight.neg_()
    assert made(model).sha256 != one.sha256


def test_batches_do_not_matter(monkeypatch):
    whole = made(vae())
    monkeypatch.setattr(attack, "BATCH", 7)
    # a gradient that is zero but for rounding may turn its sign
    assert (made(vae()).x != whole.x).mean() < 1e-3


def test_the_gradient_is_the_mean_over_samples_of_that_of_the_bound():
    model, index = vae(), torch.arange(COUNT)
    x = torch.tensor(gaussian_noise().apply(INLIER.x, 0))
    found = attack.score_gradient(evaluated(model, seed=3), x, index, 4)
    y = (x / 255).requires_grad_()
    total = sum(model(y, ExampleNoise(4, index, s)).elbo.sum() for s in range(4))
    torch.testing.assert_close(found, torch.autograd.grad(total, y)[0], rtol=1e-4, atol=1e-4)
    assert all(value.grad is None for value in model.parameters())


class Brightness(Density):
    """Likes the pixels of the left half bright, those of the right half dark, and knows no more."""

    def observe(self, x, noise):
        return x / 51 - 2

    def forward(self, y, noise, samples=1):
        return Bound((y[..., :4].sum((1, 2, 3)) - y[..., 4:].sum((1, 2, 3))).expand(samples, -1))

    def generate(self, count, noise):
        raise NotImplementedError


def test_the_step_goes_where_the_model_likes_it():
    x = made(Brightness(), eps=1.0).x
    assert (x[..., :4] == 255).all() and (x[..., 4:] == 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_what_is_raised_is_one_number_for_each_example(name):
    model = MODELS[name]()
    noise = ExampleNoise(0, torch.arange(COUNT))
    y = model.observe(torch.tensor(gaussian_noise().apply(INLIER.x, 0)), noise)
    assert isinstance(model, Attackable)
    value = model.plausibility(y, noise)
    assert value.shape == (COUNT,)
    torch.testing.assert_close(value, model(y, noise).elbo[0])


def test_a_model_that_says_nothing_is_refused_before_it_is_trained():
    with pytest.raises(UserError, match=r"which Linear does not have; remove it with ~data\.out\.adversarial"):
        attack.check_attackable(nn.Linear(1, 1), {"adversarial": adversarial()})
    attack.check_attackable(nn.Linear(1, 1), {})
    attack.check_attackable(vae(), {"adversarial": adversarial()})


def test_the_data_leave_it_to_the_model():
    images = Dataset("images", (1, 8, 8), {}, "none", "https://nowhere", lambda *_: None)
    data = OODDataModule(images, {"adversarial": adversarial(), "gaussian_noise": gaussian_noise()}, smoke=True)
    assert list(data.attacks) == ["adversarial"] and list(data.test_sets()) == ["images", "gaussian_noise"]
    rows = Dataset("rows", (8,), {}, "none", "https://nowhere", lambda *_: None)
    with pytest.raises(UserError, match=r"data\.out\.adversarial needs images, but rows has rows"):
        OODDataModule(rows, {"adversarial": adversarial()})
    with pytest.raises(UserError, match=r"data\.negative=adversarial is a test set only"):
        OODDataModule(images, {}, negative=adversarial())


def test_of_an_ensemble_the_first_member_that_counts_is_attacked():
    members = [vae(), vae(Bernoulli("dynamic")), vae(centred=True)]
    ensemble = Ensemble(members)
    assert np.array_equal(made(ensemble).x, made(members[0]).x)
    ensemble.alive[0] = False
    assert np.array_equal(made(ensemble).x, made(members[1]).x)
    with pytest.raises(UserError, match="Linear does not have"):
        attack.check_attackable(Ensemble([nn.Linear(1, 1), nn.Linear(1, 1)]), {"adversarial": adversarial()})
