"""The embedded sets: reproducible, split without a shared pixel or image, textured as promised."""

import numpy as np
import pytest

from oodgen.data import embedded
from oodgen.data.catalog import load
from oodgen.data.embedded import cut, digits, glyphs, patches, photos


def footprint(shape: tuple[int, ...], chosen: list[embedded.Patch]) -> np.ndarray:
    """The pixels of the picture from which patches are made."""
    seen = np.zeros(shape, bool)
    for scale, row, column in chosen:
        seen[row * scale : (row + 28) * scale, column * scale : (column + 28) * scale] = True
    return seen


@pytest.fixture(scope="module")
def chosen():
    return [
        (picture, {split: patches(picture, split, size // 2, seed) for split, size in embedded.PHOTOS.items()})
        for seed, picture in enumerate(embedded.pictures())
    ]


def test_cut_takes_means_of_its_pixels_and_no_others():
    picture = np.random.default_rng(0).random((100, 130))
    for patch in (embedded.Patch(1, 3, 4), embedded.Patch(2, 5, 6), embedded.Patch(3, 2, 7)):
        x = cut(picture, patch)
        s, row, column = patch
        wanted = picture[(row + 9) * s : (row + 10) * s, (column + 20) * s : (column + 21) * s].mean()
        assert x.shape == (28, 28) and x[9, 20] == pytest.approx(wanted)
        elsewhere = np.where(footprint(picture.shape, [patch]), picture, np.nan)
        np.testing.assert_array_equal(cut(elsewhere, patch), x)
        assert np.isnan(cut(np.where(footprint(picture.shape, [patch]), np.nan, picture), patch)).all()


def test_train_and_test_share_no_pixel(chosen):
    for picture, by_split in chosen:
        train, test = (footprint(picture.shape, by_split[split]) for split in ("train", "test"))
        assert train.any() and test.any() and not (train & test).any()
        spoiled = np.where(test, np.nan, picture)
        assert all(np.isfinite(cut(spoiled, patch)).all() for patch in by_split["train"])


def test_patches_are_distinct_textured_and_of_every_scale(chosen):
    for picture, by_split in chosen:
        for split, places in by_split.items():
            assert len(set(places)) == len(places) == embedded.PHOTOS[split] // 2
            counts = np.bincount([patch.scale for patch in places])[1:]
            assert np.ptp(counts) <= 1 and len(counts) == 3
            assert min(cut(picture, patch).std() for patch in places) > embedded.TEXTURE


def test_flat_pictures_have_no_texture():
    picture = np.zeros((300, 400))
    assert patches(picture, "train", 90, 0) == []
    picture[::2] = 0.5
    assert len(patches(picture, "train", 90, 0)) > 0


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Where the sets are prepared."""
    return tmp_path_factory.mktemp("embedded")


@pytest.mark.parametrize("make", [photos, digits, glyphs])
def test_built_twice_alike(tmp_path, root, make):
    one, two = (load(make(), "test", folder) for folder in (root, tmp_path))
    assert one.sha256 == two.sha256
    assert one.origin == "official test split" and len(one.x) == 1000


def test_photos(root):
    train, test = (load(photos(), split, root) for split in ("train", "test"))
    assert len(train.x) == 8192
    assert train.x.std((1, 2, 3)).min() > 0.099 * 255 and test.x.std((1, 2, 3)).min() > 0.099 * 255
    # a model is fed slices of the array: they must be mixed, not one photograph after the other
    halves = [part.mean() for part in np.array_split(train.x, 2)]
    assert abs(halves[0] - halves[1]) < 3


def test_digits(root):
    from sklearn.datasets import load_digits

    train, test = (load(digits(), split, root) for split in ("train", "test"))
    bunch = load_digits()
    np.testing.assert_array_equal(np.concatenate([train.y, test.y]), bunch.target)
    border = np.ones((28, 28), bool)
    border[2:-2, 2:-2] = False
    assert (test.x[:, 0, border] == 0).all()
    # blocks of 3x3 under a full pixel are white, and all black where the digit has no ink nearby
    ink = test.x[:, 0, 2:-2, 2:-2].reshape(-1, 8, 3, 8, 3).mean((2, 4))
    small = bunch.images[797:]
    assert ink[small == 16].mean() > 230 and ink[small == 0].mean() < 10
    assert ((test.x == 0) | (test.x == 255)).mean() > 0.85  # contrast is high


def test_glyphs(root):
    train, test = (load(glyphs(), split, root) for split in ("train", "test"))
    images = {x.tobytes() for x in train.x} | {x.tobytes() for x in test.x}
    assert len(images) == len(train.x) + len(test.x)
    assert set(np.concatenate([train.y, test.y])) == set(range(62))
    everything = np.concatenate([train.x, test.x])
    assert everything.mean() < 64  # white on black
    assert everything.max((1, 2, 3)).min() > 100  # none is empty
    # few strokes are cut off at the edge
    edge = np.ones((28, 28), bool)
    edge[1:-1, 1:-1] = False
    assert (everything[:, 0, edge].max(1) > 128).mean() < 0.03
    # the letter I has more ink in the middle column than O has
    columns = {c: everything[:, 0][np.concatenate([train.y, test.y]) == embedded.CHARACTERS.index(c)] for c in "IO"}
    assert columns["I"][:, 10:18, 11:17].mean() > columns["O"][:, 10:18, 11:17].mean() + 30
