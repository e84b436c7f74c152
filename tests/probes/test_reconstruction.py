"""MSE, PSNR and SSIM of reconstructions against numpy, and what a perfect one is given."""

import math

import numpy as np
import pytest
import torch

from oodgen.models.likelihoods import Bernoulli
from oodgen.models.vae import VAE
from oodgen.noise import ExampleNoise
from oodgen.probes.reconstruction import Reconstruction

SHAPES = [(1, 16, 13), (3, 12, 20)]


class Draws:
    """Stands for a model that reconstructs what it was told to."""

    def __init__(self, images):
        self.images = images

    def observe(self, x, noise):
        return x / 255

    def reconstruct(self, y, noise, k):
        assert k == 0
        return self.images


def pair(shape, count=5):
    """Smooth stored images, and noisy copies of them on [0, 1]."""
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, shape[0], 4, 4, generator=g)
    x = (torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear") * 255).to(torch.uint8)
    spread = torch.tensor([0.01, 0.03, 0.1, 0.3, 1.0]).view(-1, 1, 1, 1)
    return x, (x / 255 + spread * torch.randn(x.shape, generator=g)).clamp(0, 1)


def ask(images, x):
    return Reconstruction()(Draws(images), x, ExampleNoise(0, torch.arange(len(x))))


def ssim(a, b):
    """Wang et al. 2004, eq. 13, of two images (C, H, W): Gaussian windows of sigma 1.5, mirrored borders."""
    t = np.arange(-5, 6)
    window = np.exp(-(t**2) / 2 / 1.5**2)
    window = np.outer(window, window) / window.sum() ** 2

    def mean(image):
        padded = np.pad(image, ((0, 0), (5, 5), (5, 5)), mode="reflect")
        views = np.lib.stride_tricks.sliding_window_view(padded, (11, 11), (1, 2))
        return (views * window).sum((-2, -1))

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b, cov = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2, mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return index.mean()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_three_by_hand(shape, precision):
    x, images = pair(shape)
    # as evaluation asks where networks compute in bf16: the comparison itself does not
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        found = ask(images, x)
    a, b = images.double().numpy(), x.numpy() / 255
    mse = ((a - b) ** 2).mean((1, 2, 3))
    expected = {"mse": mse, "psnr": -10 * np.log10(mse), "ssim": [ssim(*images) for images in zip(a, b, strict=True)]}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == torch.float32
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-4, err_msg=name)
    # the nearer, the better, in all three
    assert (found["mse"].diff() > 0).all() and (found["psnr"].diff() < 0).all() and (found["ssim"].diff() < 0).all()


def test_a_perfect_image_is_as_good_as_rounding_and_keeps_means_finite():
    x, images = pair((1, 16, 13))
    images[2] = x[2] / 255
    found = ask(images, x)
    assert found["mse"][2] == 0 and found["ssim"][2].item() == pytest.approx(1)
    # the variance of an error that is uniform within one grey level
    assert found["psnr"][2].item() == pytest.approx(10 * math.log10(12 * 255**2))
    assert found["psnr"].mean().isfinite() and (found["psnr"] <= found["psnr"][2]).all()
    # one grey level off everywhere is told from perfect
    x = x.clamp(0, 254)
    np.testing.assert_allclose(ask((x + 1) / 255, x)["psnr"], 20 * math.log10(255), rtol=1e-5)


def test_black_on_black_is_perfect():
    x = torch.zeros(2, 1, 12, 12, dtype=torch.uint8)
    found = ask(torch.zeros(2, 1, 12, 12), x)
    assert all(value.isfinite().all() for value in found.values())
    np.testing.assert_allclose(found["ssim"], 1)


def test_values_beyond_the_range_are_those_of_its_ends():
    x, images = pair((1, 16, 13))
    wild = torch.where(images > 0.5, 1.5, -0.5)
    for name, value in ask(wild, x).items():
        torch.testing.assert_close(value, ask(wild.clamp(0, 1), x)[name])


@torch.inference_mode()
def test_a_vae_is_asked_for_a_sample_of_its_posterior_image_by_image():
    torch.manual_seed(0)
    model = VAE((1, 12, 12), 2, [3], [2], 4, Bernoulli("soft")).eval()
    x, index = pair((1, 12, 12))[0], torch.tensor([3, 1, 4, 1, 5])
    noise = ExampleNoise(7, index)
    found = Reconstruction()(model, x, noise)
    image = model.reconstruct(x / 255, noise, 0)
    torch.testing.assert_close(found["mse"], (image - x / 255).square().mean((1, 2, 3)))
    for i in range(5):
        alone = Reconstruction()(model, x[[i]], ExampleNoise(7, index[[i]]))
        for name, value in alone.items():
            torch.testing.assert_close(value, found[name][[i]], rtol=1e-4, atol=1e-5)
    assert Reconstruction().batch(model) >= 1
