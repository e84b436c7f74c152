"""LFW: labelled faces in the wild (Huang et al. 2007)."""

from pathlib import Path

from oodgen.data.catalog import Dataset, Read, require
from oodgen.data.images import from_torchvision, open_torchvision

__all__ = ["lfw"]

SHAPE = (3, 32, 32)
RAW = {
    split: tuple(f"lfw-py/{name}" for name in ("lfw-funneled.tgz", table, "lfw-names.txt", "lfw_funneled"))
    for split, table in (("train", "peopleDevTrain.txt"), ("test", "peopleDevTest.txt"))
}


def _read(root: Path, split: str) -> Read:
    require(root, *RAW[split])
    from torchvision.datasets import LFWPeople

    files = [root / name for name in RAW[split][:3]]
    return from_torchvision(open_torchvision(lambda: LFWPeople(str(root), split), "lfw", files), SHAPE)


def lfw() -> Dataset:
    """LFW, funneled: the people of the development train and test lists; labels are the persons."""
    return Dataset(
        "lfw",
        SHAPE,
        {"train": 9_525, "test": 3_708},
        "not stated",
        "https://vis-www.cs.umass.edu/lfw/",
        _read,
        None,
        "funneled images of the official lists, centre crop, bilinear to 32x32; no longer downloadable: "
        "put lfw-funneled.tgz, its unpacked folder, peopleDev{Train,Test}.txt and lfw-names.txt into ROOT/lfw-py",
        RAW,
    )
