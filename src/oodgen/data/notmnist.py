"""notMNIST: the letters A to J cut from fonts of the web (Bulatov 2011)."""

import tarfile
from pathlib import Path

import numpy as np

from oodgen.data.catalog import Dataset, Read, require
from oodgen.data.images import decode
from oodgen.errors import UserError

__all__ = ["notmnist"]

SHAPE = (1, 28, 28)
FOLDERS = {"train": "notMNIST_large", "test": "notMNIST_small"}
RAW = {split: tuple(f"notMNIST/{folder}/{letter}" for letter in "ABCDEFGHIJ") for split, folder in FOLDERS.items()}
BYTES = {"train": 247_336_696, "test": 8_458_043}
MIRROR = "https://commondatastorage.googleapis.com/books1000/"


def _read(root: Path, split: str) -> Read:
    require(root, *RAW[split])
    images, labels = [], []
    for label, letter in enumerate(RAW[split]):
        for path in sorted((root / letter).glob("*.png")):
            try:
                images.append(decode(path, SHAPE))
            except UserError:
                # two files of the small and five of the large archive were published broken; `sizes` excludes them, so
                # that further broken files are detected
                continue
            labels.append(label)
    return np.array(images, np.uint8).reshape(-1, *SHAPE), np.array(labels, np.int64)


def _fetch(root: Path) -> None:
    from torchvision.datasets.utils import download_url

    home = root / "notMNIST"
    for split, folder in FOLDERS.items():
        if (home / folder).exists():
            continue
        archive = home / f"{folder}.tar.gz"
        download_url(f"{MIRROR}{archive.name}", home)
        if archive.stat().st_size != BYTES[split]:
            archive.unlink()
            raise UserError(f"notmnist: {archive.name} is not {BYTES[split]:,} bytes long; download it again later")
        with tarfile.open(archive) as tar:
            tar.extractall(home, filter="data")


def notmnist() -> Dataset:
    """notMNIST: the large set, cleaned by machine, as train, the small one, cleaned by hand, as test; labels 0 to 9."""
    return Dataset(
        "notmnist",
        SHAPE,
        {"train": 529_114, "test": 18_724},
        "not stated",
        "http://yaroslavvb.blogspot.com/2011/09/notmnist-dataset.html",
        _read,
        _fetch,
        "the large set as train, the small one as test, without the 5 + 2 files published broken",
        RAW,
    )
