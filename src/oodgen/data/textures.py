"""Textures: the Describable Textures Dataset (Cimpoi et al. 2014)."""

from pathlib import Path

from oodgen.data.catalog import Dataset, Read, require
from oodgen.data.images import from_torchvision, open_torchvision

__all__ = ["textures"]

SHAPE = (3, 32, 32)
RAW = {split: (f"dtd/dtd/labels/{split}1.txt", "dtd/dtd/images") for split in ("train", "test")}


def _read(root: Path, split: str) -> Read:
    require(root, *RAW[split])
    from torchvision.datasets import DTD

    return from_torchvision(open_torchvision(lambda: DTD(root, split), "textures", [root / "dtd"]), SHAPE)


def _fetch(root: Path) -> None:
    from torchvision.datasets import DTD

    DTD(root, download=True)


def textures() -> Dataset:
    """DTD: train and test split of the first of its ten partitions; labels 0 to 46."""
    return Dataset(
        "textures",
        SHAPE,
        {"train": 1_880, "test": 1_880},
        "research only",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        _read,
        _fetch,
        "first of ten partitions, centre crop, bilinear to 32x32",
        RAW,
    )
