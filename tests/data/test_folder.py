"""A user's own folder of images, and how any image becomes an array."""

import io

import numpy as np
import pytest
from PIL import Image

from oodgen.data.catalog import load
from oodgen.data.folder import folder, images
from oodgen.data.images import decode
from oodgen.errors import UserError


@pytest.fixture
def home(tmp_path):
    where = tmp_path / "pictures"
    for i in range(40):
        path = where / f"{'ab'[i % 2]}" / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (i, 2 * i, 255)).save(path)
    return where


def marks(x: np.ndarray) -> list[int]:
    return sorted(int(n) for n in x[:, 0, 0, 0])


def test_splits_are_disjoint_and_complete(home, tmp_path):
    dataset = folder(home, [3, 16, 16])
    train, test, everything = (load(dataset, split, tmp_path) for split in ("train", "test", "all"))
    assert marks(everything.x) == list(range(40)) == sorted(marks(train.x) + marks(test.x))
    assert 2 <= len(test.x) <= 16 and test.x.shape[1:] == (3, 16, 16)
    assert (test.x[:, 2] == 255).all() and test.y is None
    assert "official" not in test.origin


def test_an_image_stays_in_its_split(home, tmp_path):
    before = set(marks(load(folder(home), "test", tmp_path).x))
    Image.new("RGB", (40, 30), (99, 0, 255)).save(home / "new.png")
    after = set(marks(load(folder(home), "test", tmp_path).x))
    assert after - {99} == before


def test_a_changed_folder_or_shape_is_another_set(home):
    first = folder(home).name
    assert first == folder(str(home)).name and first.startswith("pictures-")
    assert folder(home, (1, 32, 32)).name != first
    Image.new("RGB", (8, 8)).save(home / "c.bmp")
    assert folder(home).name != first


def test_grey(home, tmp_path):
    x = load(folder(home, [1, 8, 8]), "all", tmp_path).x
    assert x.shape == (40, 1, 8, 8) and x[0, 0, 0, 0] == round(255 * 0.114)


def test_formats_and_modes(tmp_path):
    for suffix in ("png", "jpg", "bmp", "gif", "tif", "webp", "ppm", "JPEG"):
        Image.new("RGB", (9, 9), (200, 100, 50)).save(tmp_path / f"colour.{suffix}")
    for i, mode in enumerate(("1", "L", "P", "RGBA", "CMYK", "LA")):
        Image.new(mode, (9, 9)).save(tmp_path / f"mode{i}.tif")
    (tmp_path / "readme.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    paths = images(tmp_path)
    assert len(paths) == 14
    for path in paths:
        x = decode(path, (3, 8, 8))
        assert x.shape == (3, 8, 8) and x.dtype == np.uint8
        if path.stem == "colour" and path.suffix != ".gif":
            np.testing.assert_allclose(x[:, 4, 4].astype(int), (200, 100, 50), atol=8)


def test_sixteen_bits_keep_the_upper_byte(tmp_path):
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(decode(tmp_path / "deep.png", (1, 8, 8))[0], values >> 8)


def test_camera_orientation(tmp_path):
    picture = Image.new("L", (8, 8))
    picture.paste(255, (0, 0, 8, 4))  # white above as stored
    exif = Image.Exif()
    exif[0x0112] = 3  # to be turned by 180 degrees
    picture.save(tmp_path / "turned.png", exif=exif)
    x = decode(tmp_path / "turned.png", (1, 8, 8))[0]
    assert (x[:4] == 0).all() and (x[4:] == 255).all()


def test_crop_keeps_the_centre():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "PNG")
    assert (decode(buffer, (3, 10, 10)) == 255).all()
    assert decode(buffer, (3, 10, 10), crop=False).mean() < 100


def test_unreadable_image_is_named(home, tmp_path):
    (home / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    with pytest.raises(UserError, match=r"broken\.jpg cannot be read as an image"):
        load(folder(home), "all", tmp_path)


def test_truncated_image_is_named(home, tmp_path):
    path = home / "a" / "000.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"000\.png"):
        load(folder(home), "all", tmp_path)


def test_no_images(tmp_path):
    with pytest.raises(UserError, match="no images under"):
        folder(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="no images under"):
        folder(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        folder(tmp_path / "nowhere")


def test_too_few_for_a_split(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "one.png")
    dataset, missing = folder(tmp_path), []
    for split in ("train", "test"):
        try:
            load(dataset, split, tmp_path / "root")
        except UserError as error:
            missing.append(str(error))
    assert len(missing) == 1 and "add more images" in missing[0]
    with pytest.raises(UserError, match="it has train, test, all"):
        load(dataset, "validation", tmp_path / "root")


@pytest.mark.parametrize("shape", [(32, 32), (2, 8, 8), (3, 0, 8)])
def test_shape(tmp_path, shape):
    Image.new("L", (4, 4)).save(tmp_path / "one.png")
    with pytest.raises(UserError, match=r"\[3,32,32\]"):
        folder(tmp_path, shape)


def test_links_and_strange_names(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    Image.new("L", (4, 4)).save(real / "ünïcode [1].png")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "link").symlink_to(real)
    assert len(load(folder(tmp_path / "home"), "all", tmp_path / "root").x) == 1


def test_floating_point_pixels_are_refused(tmp_path):
    path = tmp_path / "map.tiff"
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(path)
    with pytest.raises(UserError, match=r"map\.tiff has floating-point pixels; save it with 8 or 16 bits"):
        decode(path, (1, 4, 4))
