"""Flowers102: 102 kinds of flowers (Nilsback, Zisserman 2008)."""

from pathlib import Path

from oodgen.data.catalog import Dataset, Read, require
from oodgen.data.images import from_torchvision, open_torchvision

__all__ = ["flowers102"]

SHAPE = (3, 32, 32)
FILES = tuple(f"flowers-102/{name}" for name in ("imagelabels.mat", "setid.mat", "jpg"))
RAW = {"train": FILES, "test": FILES}


def _read(root: Path, split: str) -> Read:
    require(root, *RAW[split])
    from torchvision.datasets import Flowers102

    files = [root / name for name in FILES[:2]]
    return from_torchvision(open_torchvision(lambda: Flowers102(root, split), "flowers102", files), SHAPE)


def _fetch(root: Path) -> None:
    from torchvision.datasets import Flowers102

    Flowers102(root, download=True)


def flowers102() -> Dataset:
    """Flowers102: official train and test split; labels 0 to 101."""
    return Dataset(
        "flowers102",
        SHAPE,
        {"train": 1_020, "test": 6_149},
        "not stated",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        _read,
        _fetch,
        "centre crop, bilinear to 32x32",
        RAW,
    )
