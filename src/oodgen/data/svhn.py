"""SVHN: house numbers cut from street views (Netzer et al. 2011)."""

from pathlib import Path

from oodgen.data.catalog import Dataset, Read, require
from oodgen.data.images import open_torchvision

__all__ = ["svhn"]

RAW = {split: (f"{split}_32x32.mat",) for split in ("train", "test")}


def _read(root: Path, split: str) -> Read:
    require(root, *RAW[split])
    from torchvision.datasets import SVHN

    dataset = open_torchvision(lambda: SVHN(root, split), "svhn", [root / RAW[split][0]])
    return dataset.data, dataset.labels


def _fetch(root: Path) -> None:
    from torchvision.datasets import SVHN

    for split in RAW:
        SVHN(root, split, download=True)


def svhn() -> Dataset:
    """SVHN in its cropped form, without the extra split; labels 0 to 9."""
    return Dataset(
        "svhn",
        (3, 32, 32),
        {"train": 73_257, "test": 26_032},
        "non-commercial use only",
        "http://ufldl.stanford.edu/housenumbers/",
        _read,
        _fetch,
        "cropped digits as published, without the extra split",
        RAW,
    )
