"""GTSRB: German traffic signs (Stallkamp et al. 2012)."""

from pathlib import Path

from oodgen.data.catalog import Dataset, Read, require
from oodgen.data.images import from_torchvision, open_torchvision

__all__ = ["gtsrb"]

SHAPE = (3, 32, 32)
RAW = {"train": ("gtsrb/GTSRB/Training",), "test": ("gtsrb/GTSRB/Final_Test/Images", "gtsrb/GT-final_test.csv")}


def _read(root: Path, split: str) -> Read:
    require(root, *RAW[split])
    from torchvision.datasets import GTSRB

    return from_torchvision(open_torchvision(lambda: GTSRB(root, split), "gtsrb", [root / "gtsrb"]), SHAPE, crop=False)


def _fetch(root: Path) -> None:
    from torchvision.datasets import GTSRB

    for split in RAW:
        GTSRB(root, split, download=True)


def gtsrb() -> Dataset:
    """GTSRB, the whole picture of each sign; labels 0 to 42."""
    return Dataset(
        "gtsrb",
        SHAPE,
        {"train": 26_640, "test": 12_630},
        "not stated",
        "https://benchmark.ini.rub.de/",
        _read,
        _fetch,
        "torchvision's training archive (26,640 images) and final test; uncropped, bilinear to 32x32",
        RAW,
    )
