"""Image files to arrays: conversion to grey or RGB, cropping and resizing, the same for all data sets."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from oodgen.errors import UserError

__all__ = ["decode", "decode_files", "from_torchvision", "open_torchvision", "to_array"]

T = TypeVar("T")


def to_array(image: Image.Image, shape: Sequence[int], crop: bool) -> np.ndarray:
    """A Pillow image as uint8 (C, H, W): grey if C = 1, else RGB; resized bilinearly with antialiasing.

    Arguments:
        image: An image of any mode.
        shape: (C, H, W).
        crop: Crop the centre to the aspect ratio of the shape before resizing, instead of distorting the image.
    """
    channels, height, width = shape
    if image.mode.startswith("I"):
        # Pillow would clip wide integers to 255; take the upper byte of 16-bit images instead
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        bilinear = Image.Resampling.BILINEAR
        resized = ImageOps.fit(image, (width, height), bilinear) if crop else image.resize((width, height), bilinear)
        image = resized
    array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def decode(source: Path | IO[bytes], shape: Sequence[int], crop: bool = True, name: str = "") -> np.ndarray:
    """An image file as uint8 (C, H, W), rotated by its EXIF orientation; see `to_array`.

    Raises:
        UserError: the file is no readable image; the message has `name` or the path.
    """
    try:
        with Image.open(source) as image:
            if image.mode == "F":  # of no known range, and possibly not finite
                raise UserError(f"{name or source} has floating-point pixels; save it with 8 or 16 bits per channel")
            return to_array(ImageOps.exif_transpose(image), shape, crop)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{name or source} cannot be read as an image; replace or remove it") from error


def decode_files(paths: Sequence[Path], shape: Sequence[int], crop: bool = True) -> np.ndarray:
    """Image files as one array uint8 (N, C, H, W)."""
    x = np.empty((len(paths), *shape), np.uint8)
    for i, path in enumerate(paths):
        x[i] = decode(path, shape, crop)
    return x


def from_torchvision(dataset: Any, shape: Sequence[int], crop: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A torchvision data set of (image, integer label) as uint8 (N, C, H, W) and int64 (N,)."""
    x, y = np.empty((len(dataset), *shape), np.uint8), np.empty(len(dataset), np.int64)
    for i in range(len(dataset)):
        try:
            image, y[i] = dataset[i]
            x[i] = to_array(image, shape, crop)
        except FileNotFoundError:
            raise
        except (OSError, SyntaxError) as error:
            kind = type(dataset).__name__
            raise UserError(
                f"image {i} of {kind} under {dataset.root} cannot be read ({error}); unpack it again"
            ) from error
    return x, y


def open_torchvision(build: Callable[[], T], name: str, files: Iterable[Path]) -> T:
    """Construct a torchvision data set whose files exist, so that a RuntimeError can only be about checksums.

    Raises:
        UserError: a file is not the published one.
    """
    try:
        return build()
    except RuntimeError as error:
        listed = ", ".join(str(file) for file in files)
        raise UserError(
            f"{name}: a file among {listed} is not the published one; delete it and fetch it again"
        ) from error
