"""A data set from a folder of images."""

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from oodgen.data.catalog import Dataset, Read
from oodgen.data.images import decode_files
from oodgen.errors import UserError
from oodgen.options import Count
from oodgen.runs.files import as_name

__all__ = ["folder", "images"]

TEST = 0.2


@cache
def _suffixes() -> frozenset[str]:
    from PIL import Image

    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def images(home: Path) -> list[Path]:
    """All files under a folder with an image suffix, except hidden ones, sorted.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    if not home.is_dir():
        raise UserError(f"{home} is not a folder; give a folder of images")
    files = (Path(at) / name for at, _, names in os.walk(home, followlinks=True) for name in names)
    found = sorted(path for path in files if path.suffix.lower() in _suffixes() and not path.name.startswith("."))
    if not found:
        raise UserError(f"there are no images under {home}; give a folder of images")
    return found


def _is_test(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") < TEST * 2**64


def folder(root: str | Path, shape: Sequence[Count] = (3, 32, 32)) -> Dataset:
    """A folder of images, each cropped to the shape's aspect and resized; about a fifth, by a hash of the name, is the
    test split.

    An image's split does not depend on the other images. The splits are "train", "test" and "all". The set's name ends
    with a digest of the files' names, sizes and times, so that a changed folder is decoded again.

    Arguments:
        root: The folder, including its subfolders.
        shape: (C, H, W) of the arrays made from the images; C = 1 makes them grey, C = 3 colour.

    Raises:
        UserError: there is no image in it, or the shape is not one of an image.
    """
    home, size = Path(root).expanduser(), tuple(int(n) for n in shape)
    if len(size) != 3 or size[0] not in (1, 3) or min(size) < 1:
        raise UserError(f"shape={list(size)} is not (C, H, W) of an image with C = 1 or 3; write for example [3,32,32]")
    paths = {str(path.relative_to(home)): path for path in images(home)}
    digest = hashlib.sha256(repr(size).encode())
    for name, path in paths.items():
        status = path.stat()
        digest.update(os.fsencode(f"{name}\n{status.st_size} {status.st_mtime_ns}\n"))

    def read(_: Path, split: str) -> Read:
        if split not in ("train", "test", "all"):
            raise UserError(f"a folder has no split {split!r}; it has train, test, all")
        chosen = [path for name, path in paths.items() if split == "all" or _is_test(name) == (split == "test")]
        if not chosen:
            raise UserError(
                f"none of the {len(paths)} images under {home} falls into the {split} split; add more images"
            )
        return decode_files(chosen, size), None

    return Dataset(
        f"{as_name(home.resolve().name)}-{digest.hexdigest()[:8]}",
        size,
        {},
        "yours",
        str(home),
        read,
        None,
        "centre crop, bilinear; a fifth of the images, by hash of the file name, as test",
    )
