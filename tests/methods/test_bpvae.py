"""BPVAE: its objective against the formula set by set, which prior enters where, and who sees the simple sets."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from oodgen.data.catalog import Dataset
from oodgen.data.module import OODDataModule
from oodgen.data.resident import Batch
from oodgen.errors import Diverged
from oodgen.methods.bpvae import BPVAE
from oodgen.methods.likelihood import MaximumLikelihood
from oodgen.models.likelihoods import Bernoulli, Gaussian
from oodgen.models.vae import VAE, Isotropic
from oodgen.noise import ExampleNoise, RandomNoise
from oodgen.probes.bounds import Bounds

LATENT, SIZE = 3, 5
sgd = partial(torch.optim.SGD, lr=0.0)


def tiny(sigma_b=1.0, likelihood=None):
    torch.manual_seed(0)
    likelihood = likelihood or Bernoulli("soft")
    prior = Isotropic(sigma=sigma_b)
    return VAE((1, 8, 8), LATENT, [4, 5], [2, 2], 4, likelihood, activation="LeakyReLU", prior=prior)


def images(seed):
    return torch.randint(256, (SIZE, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def batch(*auxiliary):
    return Batch(images(0), torch.arange(SIZE), 3, auxiliary=auxiliary)


def slowly(model, sets, sigmas):
    """log p(x|z) and the KL of each set by itself, batch means; z from the draws that one pass over all would take."""
    draws = torch.randn(1, len(sets) * SIZE, LATENT)[0].split(SIZE)
    found = []
    for x, e, sigma in zip(sets, draws, sigmas, strict=True):
        y = x / 255
        q = model.encoder(y)
        z = q.mean + q.stddev * e
        logits = model.decoder.features(model.decoder.lift(z))
        mu = logits.double().sigmoid()
        log_px = (y * mu.log() + (1 - y) * (1 - mu).log()).sum((1, 2, 3)).mean()
        kl = ((q.mean**2 + q.stddev**2) / sigma**2 - 1 - (q.stddev**2 / sigma**2).log()).sum(1).mean() / 2
        found.append((log_px.float(), kl))
    return found


@pytest.mark.parametrize("sigmas", [(1.0, 0.1), (2.0, 0.5), (1.0, 5.0)], ids=str)
@pytest.mark.parametrize("simple", [0, 1, 2])
def test_the_loss_is_the_objective_set_by_set(simple, sigmas):
    sigma_b, sigma_s = sigmas
    method = BPVAE(tiny(sigma_b), sgd, sigma_s)
    sets = [images(i) for i in range(1 + simple)]
    torch.manual_seed(11)
    loss, terms = method.loss(batch(*sets[1:]), RandomNoise())
    torch.manual_seed(11)
    basic, *rest = slowly(method.model, sets, [sigma_b] + [sigma_s] * simple)
    bounds = [log_px - kl for log_px, kl in (basic, *rest)]
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-4)
    close(loss, -torch.stack(bounds).sum())
    close((terms["log_px"], terms["kl_1"], terms["bound"]), (*basic, bounds[0]))
    assert terms.keys() == {"log_px", "kl_1", "bound", *(f"simple_{i}" for i in range(1, simple + 1))}
    for i, bound in enumerate(bounds[1:], 1):
        close(terms[f"simple_{i}"], bound)


def test_without_a_simple_set_it_is_the_plain_vae():
    gradients = []
    for make in (BPVAE, MaximumLikelihood):
        method = make(tiny(2.0), sgd)
        torch.manual_seed(11)
        loss, terms = method.loss(batch(), RandomNoise())
        loss.backward()
        gradients.append([loss, terms["bound"], *(p.grad for p in method.model.parameters())])
    for mine, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)


def test_sigma_s_is_of_the_simple_sets_alone():
    found = []
    for sigma_s in (0.1, 3.0):
        torch.manual_seed(11)
        found.append(BPVAE(tiny(), sgd, sigma_s).loss(batch(images(1)), RandomNoise()))
    (narrow, a), (wide, b) = found
    assert all(torch.equal(a[name], b[name]) for name in ("log_px", "kl_1", "bound"))
    with torch.no_grad():
        q = tiny().encoder(images(1) / 255)
    square = (q.mean**2 + q.stddev**2).sum(1).mean()
    difference = (1 / 0.1**2 - 1 / 3.0**2) * square / 2 + LATENT * (math.log(0.1) - math.log(3.0))
    torch.testing.assert_close(b["simple_1"] - a["simple_1"], difference, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(narrow - wide, difference, rtol=1e-4, atol=1e-3)


def test_the_numbers_of_inliers_do_not_depend_on_the_simple_set():
    found = []
    for seed in (1, 2):
        torch.manual_seed(11)
        found.append(BPVAE(tiny(), sgd).loss(batch(images(seed)), RandomNoise())[1])
    assert found[0]["simple_1"] != found[1]["simple_1"]
    for name in ("log_px", "kl_1", "bound"):
        torch.testing.assert_close(found[0][name], found[1][name])


@torch.inference_mode()
def test_the_score_is_under_the_prior_of_the_basic_set():
    index = torch.arange(SIZE)
    found = {}
    for sigma_b, sigma_s in ((2.0, 0.1), (2.0, 4.0), (1.0, 0.1)):
        model = BPVAE(tiny(sigma_b, Gaussian()), sgd, sigma_s).model.eval()
        found[sigma_b, sigma_s] = Bounds()(model, images(1), ExampleNoise(0, index))
    one, other, standard = found.values()
    assert all(torch.equal(one[name], other[name]) for name in one)
    q = model.encoder(images(1) / 255)
    kl = ((q.mean**2 + q.stddev**2) / 4 - 1 - (q.stddev**2 / 4).log()).sum(1) / 2
    torch.testing.assert_close(one["kl"][0], kl, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one["l"][0], one["log_px"][0] - kl)
    assert torch.equal(one["log_px"], standard["log_px"]) and (one["l"] != standard["l"]).all()


# Every set has one brightness, which says where an image is from.
BRIGHTNESS = {"own": 10, "far": 60, "first": 120, "second": 180, "negative": 240}


def marked(name):
    def read(root, split):
        count = 90 if split == "train" else 12
        return np.full((count, 1, 8, 8), BRIGHTNESS[name], np.uint8), np.arange(count)

    return Dataset(name, (1, 8, 8), {}, "", "", read)


def test_simple_sets_and_negatives_are_served_as_such_and_nowhere_else(tmp_path):
    data = OODDataModule(
        marked("own"),
        {"far": marked("far")},
        {"a": marked("first"), "b": marked("second")},
        marked("negative"),
        root=tmp_path,
        batch_size=16,
    )
    data.setup()

    def only(name, x):
        assert len(x) and set(np.unique(x)) == {BRIGHTNESS[name]}

    for served in data.train_dataloader():
        only("own", served.x)
        only("first", served.auxiliary[0])
        only("second", served.auxiliary[1])
        only("negative", served.negative)
        assert len(served.auxiliary) == 2
    for served in data.val_dataloader():
        only("own", served.x)
        assert served.auxiliary == () and served.negative is None
    for part in data.held_out.values():
        only("own", part.x)
    sets = data.test_sets()
    assert list(sets) == ["own", "far"]
    for name, test in sets.items():
        only(name, test.x)


def test_a_bound_that_is_not_finite_is_named():
    method = BPVAE(tiny(), sgd)
    method.simple.sigma.fill_(torch.nan)
    with pytest.raises(Diverged, match=r"at step 3, in the bound of simple set 1$"):
        method.training_step(batch(images(1)), 0)
