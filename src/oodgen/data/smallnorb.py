"""SmallNORB: photographs of 50 toys by two cameras (LeCun, Huang, Bottou 2004)."""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from oodgen.data.catalog import Dataset, Read, require
from oodgen.data.images import to_array
from oodgen.errors import UserError

__all__ = ["decode", "smallnorb"]

SHAPE = (1, 28, 28)
URL = "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/"
STEMS = {
    "train": "smallnorb/smallnorb-5x46789x9x18x6x2x96x96-training",
    "test": "smallnorb/smallnorb-5x01235x9x18x6x2x96x96-testing",
}
RAW = {split: (f"{stem}-dat.mat", f"{stem}-cat.mat") for split, stem in STEMS.items()}
# MD5 of the files, unpacked and as downloaded; 25 toys of each category in either split, so the label files are alike
MD5 = {
    RAW["train"][0]: ("8138a0902307b32dfa0025a36dfa45ec", "66054832f9accfe74a0f4c36a75bc0a2"),
    RAW["train"][1]: ("fd5120d3f770ad57ebe620eb61a0b633", "23c8b86101fbf0904a000b43d3ed2fd9"),
    RAW["test"][0]: ("e9920b7f7b2869a8f1a12e945b2c166c", "e4ad715691ed5a3a5f138751a4ceb071"),
    RAW["test"][1]: ("fd5120d3f770ad57ebe620eb61a0b633", "5aa791cd7e6016cf957ce9bdb93b8603"),
}
TYPES: dict[int, np.dtype] = {0x1E3D4C55: np.dtype(np.uint8), 0x1E3D4C54: np.dtype(np.int32).newbyteorder("<")}


def decode(root: Path, name: str) -> np.ndarray:
    """A matrix file of NORB as an array.

    The file holds little-endian 32-bit integers: a magic number for the type, the number of dimensions, the
    dimensions (at least three are written, the surplus ones mean nothing); then the values in row-major order.

    Raises:
        FileNotFoundError: the file is missing, plain or gzipped.
        UserError: it is damaged, or not the published file.
    """
    require(root, name)
    path = root / name if (root / name).exists() else root / f"{name}.gz"
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, dimensions = (int(n) for n in np.frombuffer(data, "<i4", 2))
        if magic not in TYPES:
            raise ValueError(f"unknown magic number {magic:#x}")
        shape = np.frombuffer(data, "<i4", dimensions, offset=8)
        array = np.frombuffer(data, TYPES[magic], offset=8 + 4 * max(dimensions, 3)).reshape(shape)
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and fetch it again") from error
    if name in MD5 and hashlib.md5(data, usedforsecurity=False).hexdigest() != MD5[name][0]:
        raise UserError(f"{path} is not the published file (its MD5 differs); delete it and fetch it again")
    return array


def _read(root: Path, split: str) -> Read:
    require(root, *RAW[split])
    pairs, labels = (decode(root, name) for name in RAW[split])
    photographs = pairs.reshape(-1, *pairs.shape[2:])
    x = np.empty((len(photographs), *SHAPE), np.uint8)
    for i, photograph in enumerate(photographs):
        x[i] = to_array(Image.fromarray(photograph), SHAPE, crop=False)
    return x, np.repeat(labels, pairs.shape[1]).astype(np.int64)


def _fetch(root: Path) -> None:
    from torchvision.datasets.utils import download_url

    for name, (_, packed) in MD5.items():
        path = root / f"{name}.gz"
        download_url(f"{URL}{path.name}", path.parent, md5=packed)


def smallnorb() -> Dataset:
    """SmallNORB, the photographs of both cameras one after the other; labels are the five categories."""
    return Dataset(
        "smallnorb",
        SHAPE,
        {"train": 48_600, "test": 48_600},
        "research only, not commercial",
        URL,
        _read,
        _fetch,
        "both cameras; 96x96 bilinear to 28x28",
        RAW,
    )
