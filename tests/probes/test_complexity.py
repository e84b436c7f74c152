"""Statistics of the image alone: definitions, lossless codes, and what they separate on real data."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from oodgen.errors import UserError
from oodgen.metrics import auroc
from oodgen.probes.complexity import ImageStatistics, compressed_bits, statistics

SIZES = [(1, 28, 28), (3, 32, 32), (1, 7, 13), (3, 5, 3), (1, 1, 1), (3, 1, 9), (3, 64, 65)]


def images(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", SIZES)
def test_statistics_are_their_definitions(shape):
    x = images(4, *shape)
    p = x.double().numpy() / 255
    with np.errstate(divide="ignore", invalid="ignore"):
        h = np.nan_to_num(-p * np.log(p)) + np.nan_to_num(-(1 - p) * np.log(1 - p))
    variation = np.abs(np.diff(p, axis=2)).sum((1, 2, 3)) + np.abs(np.diff(p, axis=3)).sum((1, 2, 3))
    expected = {"mean": p.mean((1, 2, 3)), "entropy": h.sum((1, 2, 3)), "total_variation": variation}
    got = statistics(x)
    assert set(got) == set(expected)
    for name, value in got.items():
        assert value.shape == (4,) and value.dtype == torch.float32
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_entropy_is_that_of_a_fair_coin_at_middle_grey_and_none_at_black_and_white():
    x = torch.tensor([0, 255, 127], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 10, 10)
    black, white, grey = statistics(x)["entropy"].tolist()
    assert black == white == 0 and grey == pytest.approx(100 * math.log(2), rel=1e-4)


@pytest.mark.parametrize("codec", ["png", "jpeg2000"])
@pytest.mark.parametrize("shape", SIZES)
def test_codes_are_longer_for_noise_and_never_shorter_than_its_entropy(codec, shape):
    noise = images(5, *shape)
    flat = torch.full_like(noise, 77)
    bits, least = compressed_bits(noise, codec), compressed_bits(flat, codec)
    assert bits.shape == (5,) and bits.dtype == torch.float32 and (bits % 8 == 0).all()
    # a lossless code of uniform noise cannot be shorter than 8 bits a value; the header comes on top
    assert (bits >= 8 * math.prod(shape)).all()
    assert (least == least[0]).all()
    if math.prod(shape) > 50:
        assert (least < 0.9 * bits).all()


@pytest.mark.parametrize("codec", ["png", "jpeg2000"])
def test_the_code_decodes_to_the_image(codec, monkeypatch):
    """What is counted is a lossless code: decode the very bytes that `save` wrote."""
    from PIL import Image

    decoded, save = [], Image.Image.save

    def spy(self, file, **options):
        save(self, file, **options)
        file.seek(0)
        decoded.append(np.array(Image.open(file)))

    monkeypatch.setattr(Image.Image, "save", spy)
    for shape in [(1, 9, 11), (3, 32, 32)]:
        x = images(1, *shape)
        compressed_bits(x, codec)
        np.testing.assert_array_equal(decoded.pop().reshape(*shape[1:], shape[0]), x[0].permute(1, 2, 0))


def test_the_order_of_images_is_kept_and_batches_do_not_matter():
    x = images(40, 1, 16, 16)
    x[::2, :, 4:] = 0
    for codec in ("png", "jpeg2000"):
        whole = compressed_bits(x, codec)
        assert whole[::2].max() < whole[1::2].min()
        assert torch.equal(whole, torch.cat([compressed_bits(part, codec) for part in x.split(7)]))


def test_probe_has_all_keys_and_ignores_the_model():
    x = images(3, 3, 8, 8)
    evidence = ImageStatistics()(None, x, torch.arange(3))
    assert set(evidence) == {"mean", "entropy", "total_variation", "png_bits", "jpeg2000_bits"}
    assert all(v.shape == (3,) and v.dtype == torch.float32 and torch.isfinite(v).all() for v in evidence.values())


def test_what_has_no_pixels_is_refused_in_words():
    with pytest.raises(UserError, match="uint8 images"):
        statistics(torch.rand(3, 1, 4, 4))
    with pytest.raises(UserError, match="uint8 images"):
        ImageStatistics()(None, torch.rand(3, 30), torch.arange(3))
    with pytest.raises(UserError, match="1 or 3 colours"):
        compressed_bits(images(2, 2, 4, 4))
    with pytest.raises(UserError, match="png, jpeg2000"):
        compressed_bits(images(2, 1, 4, 4), "gif")


def test_pixel_entropy_alone_separates_mnist_from_fashion_mnist():
    root = Path(os.environ.get("OODGEN_DATA", "data")) / "prepared"
    paths = [root / name / "test.npy" for name in ("fashion_mnist", "mnist")]
    if not all(path.exists() for path in paths):
        pytest.skip("needs prepared FashionMNIST and MNIST under OODGEN_DATA")
    fashion, digits = (statistics(torch.from_numpy(np.load(path))) for path in paths)
    # digits are the simpler images, so the smaller entropy is the more out-of-distribution
    assert auroc(-fashion["entropy"], -digits["entropy"]) == pytest.approx(0.9979, abs=1e-4)
    # what a prototype printed was this: the first 2000 of each
    assert auroc(-fashion["entropy"][:2000], -digits["entropy"][:2000]) == pytest.approx(0.9985, abs=1e-4)
