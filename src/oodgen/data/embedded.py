r"""Sets that need no download: made from files in the packages of scikit-learn and matplotlib.

On patches of two photographs against upscaled digits the likelihood fails and likelihood ratios succeed; glyphs are a
second out set of thin strokes, hard for the ratios too.
"""

import io
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from oodgen.data.catalog import Dataset, Read
from oodgen.options import FolderName

__all__ = ["Patch", "cut", "digits", "glyphs", "patches", "photos"]

SHAPE = (1, 28, 28)
SIDE = 28
SCALES = (1, 2, 3)
TEXTURE = 0.1  # least standard deviation of a patch, white being 1
BLOCK = 112  # side of the blocks that are train or test, in pixels of the photograph; a multiple of JPEG's 16
PHOTOS = {"train": 8192, "test": 1000}
GLYPHS = {"train": 8192, "test": 1000}
DIGITS = {"train": 797, "test": 1000}


class Patch(NamedTuple):
    """The place of a patch: row and column of its corner in the image downscaled by `scale`."""

    scale: int
    row: int
    column: int


def reduce(picture: np.ndarray, scale: int) -> np.ndarray:
    """The mean over squares of `scale` pixels, (H, W) to (H // scale, W // scale)."""
    height, width = (size // scale for size in picture.shape)
    return picture[: height * scale, : width * scale].reshape(height, scale, width, scale).mean((1, 3))


def cut(picture: np.ndarray, patch: Patch) -> np.ndarray:
    """The patch, (28, 28): each of its pixels is the mean of scale x scale pixels of the picture (H, W)."""
    rows, columns = (slice(at * patch.scale, (at + SIDE) * patch.scale) for at in (patch.row, patch.column))
    return reduce(picture[rows, columns], patch.scale)


def patches(picture: np.ndarray, split: str, count: int, seed: int) -> list[Patch]:
    """Distinct textured patches of an image, evenly over the scales, without pixels of the other split's blocks.

    The blocks with (2 row + column) mod 4 = 1 are test.

    Arguments:
        picture: Grey values in [0, 1], (H, W).
        split: "train" or "test".
        count: Number of patches.
        seed: Of the random choice.
    """
    rng = np.random.default_rng(seed)
    row, column = np.ogrid[: picture.shape[0], : picture.shape[1]]
    test = (2 * (row // BLOCK) + column // BLOCK) % 4 == 1
    foreign = (test != (split == "test")).astype(float)
    found: list[Patch] = []
    for i, scale in enumerate(SCALES):
        seen = _window_sums(reduce(foreign, scale)) > 0.5 / scale**2
        grey = reduce(picture, scale) - picture.mean()
        variance = _window_sums(grey**2) / SIDE**2 - (_window_sums(grey) / SIDE**2) ** 2
        rows, columns = np.nonzero(~seen)
        textured = variance[rows, columns] > TEXTURE**2
        places = rng.permutation(np.flatnonzero(textured))[: count // 3 + (i < count % 3)]
        found += [Patch(scale, int(rows[place]), int(columns[place])) for place in places]
    return found


def _window_sums(x: np.ndarray) -> np.ndarray:
    """The sum of each window of SIDE x SIDE pixels, (H, W) to (H - SIDE + 1, W - SIDE + 1)."""
    total = np.pad(x.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return total[SIDE:, SIDE:] - total[:-SIDE, SIDE:] - total[SIDE:, :-SIDE] + total[:-SIDE, :-SIDE]


def pictures() -> list[np.ndarray]:
    """scikit-learn's two photographs, china.jpg and flower.jpg, as grey values in [0, 1], (427, 640)."""
    from sklearn.datasets import load_sample_image

    names = ("china.jpg", "flower.jpg")
    return [np.asarray(Image.fromarray(load_sample_image(name)).convert("L")) / 255 for name in names]


def _read_photos(_: Path, split: str) -> Read:
    x = []
    for seed, picture in enumerate(pictures()):
        x += [cut(picture, patch) for patch in patches(picture, split, PHOTOS[split] // 2, seed)]
    order = np.random.default_rng(len(x)).permutation(len(x))
    return np.rint(255 * np.array(x)[order, None]).astype(np.uint8), None


def photos() -> Dataset:
    """Textured 28x28 grey patches of two photographs at three scales; train and test share no pixel at any scale."""
    return Dataset(
        "photos",
        SHAPE,
        PHOTOS,
        "CC BY 2.0 (danielbuechele, vultilion on Flickr)",
        "https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_sample_images.html",
        _read_photos,
        about="embedded; patches at scales 1, 2, 3 with standard deviation above 0.1, split by blocks of 112 pixels",
    )


def _read_digits(_: Path, split: str) -> Read:
    from sklearn.datasets import load_digits

    data, labels = load_digits(return_X_y=True)
    x = np.zeros((len(data), *SHAPE), np.uint8)
    for i, grey in enumerate((data / 16).astype(np.float32).reshape(-1, 8, 8)):
        large = np.asarray(Image.fromarray(grey).resize((24, 24), Image.Resampling.BICUBIC))
        x[i, 0, 2:-2, 2:-2] = np.rint(255 * (0.5 + 4 * (large - 0.5)).clip(0, 1))
    part = slice(DIGITS["train"]) if split == "train" else slice(DIGITS["train"], None)
    return x[part], labels[part].astype(np.int64)


def digits() -> Dataset:
    """scikit-learn's handwritten digits, 8x8 bicubic to 24x24, a border of 2, fourfold contrast; labels 0 to 9."""
    return Dataset(
        "digits",
        SHAPE,
        DIGITS,
        "CC BY 4.0 (UCI, Alpaydin and Kaynak 1998)",
        "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        _read_digits,
        about="embedded; the first 797 as train, the last 1,000 as test",
    )


CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)


def _read_glyphs(characters: str, _: Path, split: str) -> Read:
    import matplotlib

    home = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = [(home / f"{name}.ttf").read_bytes() for name in FONTS]
    fonts = {
        (f, size): ImageFont.truetype(io.BytesIO(file), size) for f, file in enumerate(files) for size in range(18, 29)
    }
    rng, total = np.random.default_rng(0), sum(GLYPHS.values())
    drawn: dict[bytes, int] = {}  # image -> label, without duplicates
    while len(drawn) < total:
        font = fonts[int(rng.integers(len(FONTS))), int(rng.integers(18, 29))]
        label = int(rng.integers(len(characters)))
        centre = tuple(float(at) for at in 14 + rng.integers(-2, 3, 2))
        left, top, right, bottom = font.getbbox(characters[label], anchor="lt")
        image = Image.new("L", (SIDE, SIDE))
        corner = (round(centre[0] - (left + right) / 2), round(centre[1] - (top + bottom) / 2))
        ImageDraw.Draw(image).text(corner, characters[label], 255, font, anchor="lt")
        drawn.setdefault(image.tobytes(), label)
    x = np.frombuffer(b"".join(drawn), np.uint8).reshape(total, *SHAPE)
    part = slice(GLYPHS["train"]) if split == "train" else slice(GLYPHS["train"], None)
    return x[part], np.fromiter(drawn.values(), np.int64)[part]


def glyphs(name: FolderName = "glyphs", characters: str = CHARACTERS) -> Dataset:
    """Characters in matplotlib's text fonts, white on black, all different; labels are places in `characters`."""
    return Dataset(
        name,
        SHAPE,
        GLYPHS,
        "fonts: Bitstream Vera, SIL OFL, BaKoMa",
        "https://github.com/matplotlib/matplotlib/tree/main/lib/matplotlib/mpl-data/fonts",
        partial(_read_glyphs, characters),
        about="embedded; 21 fonts, sizes 18 to 28, moved by up to 2 pixels; train and test share no image",
    )
