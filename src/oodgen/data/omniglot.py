"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each (Lake, Salakhutdinov, Tenenbaum 2015)."""

import io
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np

from oodgen.data.catalog import Dataset, Read, require
from oodgen.data.images import decode
from oodgen.errors import UserError

__all__ = ["omniglot"]

SHAPE = (1, 28, 28)
ARCHIVES = {"train": "images_background", "test": "images_evaluation"}
RAW = {split: (f"omniglot-py/{archive}.zip",) for split, archive in ARCHIVES.items()}


def unzip(path: Path) -> Read:
    """The drawings of an archive, sorted by name, uint8 (N, 1, 28, 28), and the index of each one's character (N,)."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png") and not name.startswith("__MACOSX"))
        x = np.empty((len(names), *SHAPE), np.uint8)
        for i, name in enumerate(names):
            x[i] = decode(io.BytesIO(archive.read(name)), SHAPE, name=f"{name} in {path}")
    _, labels = np.unique([str(PurePosixPath(name).parent) for name in names], return_inverse=True)
    return x, labels.astype(np.int64)


def _read(root: Path, split: str) -> Read:
    require(root, *RAW[split])
    from torchvision.datasets import Omniglot
    from torchvision.datasets.utils import check_integrity

    path = root / RAW[split][0]
    if not check_integrity(path, Omniglot.zips_md5[ARCHIVES[split]]):
        raise UserError(f"{path} is not the published file (its MD5 differs); delete it and fetch it again")
    return unzip(path)


def _fetch(root: Path) -> None:
    from torchvision.datasets import Omniglot

    for background in (True, False):
        Omniglot(str(root), background=background, download=True)


def omniglot() -> Dataset:
    """Omniglot, black on white: the background set as train, the evaluation set as test."""
    return Dataset(
        "omniglot",
        SHAPE,
        {"train": 19_280, "test": 13_180},
        "MIT",
        "https://github.com/brendenlake/omniglot",
        _read,
        _fetch,
        "white ground; background set as train, evaluation set as test; 105x105 bilinear to 28x28",
        RAW,
    )
