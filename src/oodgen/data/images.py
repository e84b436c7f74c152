"""Image files to arrays: grey or colour, cropped and resized in one place, so that every set is treated alike."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from oodgen.errors import UserError

__all__ = ["collect", "decode", "fit", "opened", "stack"]

T = TypeVar("T")


def fit(image: Image.Image, shape: Sequence[int], crop: bool) -> np.ndarray:
    """A picture as uint8 (C, H, W): grey if C = 1, else RGB; bilinear with antialiasing where the size differs.

    Arguments:
        image: The picture, of any mode.
        shape: (C, H, W).
        crop: Cut the centre to the shape's aspect first, instead of distorting the picture.
    """
    channels, height, width = shape
    if image.mode.startswith("I"):
        # Pillow clips wide integers to 255 when it converts them; 16-bit pictures keep their upper byte instead
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        bilinear = Image.Resampling.BILINEAR
        resized = ImageOps.fit(image, (width, height), bilinear) if crop else image.resize((width, height), bilinear)
        image = resized
    array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def decode(source: Path | IO[bytes], shape: Sequence[int], crop: bool = True, name: str = "") -> np.ndarray:
    """An image file as uint8 (C, H, W), upright as its EXIF orientation says.

    Raises:
        UserError: the file is no readable image; `name` (by default the path) is named.
    """
    try:
        with Image.open(source) as image:
            if image.mode == "F":  # of no known range, and possibly not finite
                raise UserError(f"{name or source} has floating-point pixels; save it with 8 or 16 bits a channel")
            return fit(ImageOps.exif_transpose(image), shape, crop)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{name or source} cannot be read as an image; replace or remove it") from error


def stack(paths: Sequence[Path], shape: Sequence[int], crop: bool = True) -> np.ndarray:
    """Image files as one array uint8 (N, C, H, W)."""
    x = np.empty((len(paths), *shape), np.uint8)
    for i, path in enumerate(paths):
        x[i] = decode(path, shape, crop)
    return x


def collect(dataset: Any, shape: Sequence[int], crop: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A torchvision set of (picture, integer) as uint8 (N, C, H, W) and int64 (N,)."""
    x, y = np.empty((len(dataset), *shape), np.uint8), np.empty(len(dataset), np.int64)
    for i in range(len(dataset)):
        try:
            image, y[i] = dataset[i]
            x[i] = fit(image, shape, crop)
        except FileNotFoundError:
            raise
        except (OSError, SyntaxError) as error:
            kind = type(dataset).__name__
            raise UserError(
                f"image {i} of {kind} under {dataset.root} cannot be read ({error}); unpack it again"
            ) from error
    return x, y


def opened(build: Callable[[], T], name: str, files: Iterable[Path]) -> T:
    """Build a torchvision set whose files are present, so that its complaint can only be about their checksums.

    Raises:
        UserError: torchvision found a file that is not the published one.
    """
    try:
        return build()
    except RuntimeError as error:
        listed = ", ".join(str(file) for file in files)
        raise UserError(
            f"{name}: a file among {listed} is not the published one; delete it and fetch it again"
        ) from error
