"""Places365: photographs of scenes (Zhou et al. 2017)."""

from pathlib import Path

from oodgen.data.catalog import Dataset, Read, require
from oodgen.data.images import from_torchvision, open_torchvision

__all__ = ["places365"]

SHAPE = (3, 32, 32)
RAW = {"test": tuple(f"places365/{name}" for name in ("categories_places365.txt", "places365_val.txt", "val_256"))}


def _read(root: Path, split: str) -> Read:
    require(root, *RAW[split])
    from torchvision.datasets import Places365

    files = [root / name for name in RAW[split][:2]]
    dataset = open_torchvision(lambda: Places365(root / "places365", "val", small=True), "places365", files)
    return from_torchvision(dataset, SHAPE)


def _fetch(root: Path) -> None:
    from torchvision.datasets import Places365

    # torchvision refuses to download images into a folder that is there already
    Places365(root / "places365", "val", small=True, download=not (root / RAW["test"][2]).exists())


def places365() -> Dataset:
    """Places365: the validation images of 256 pixels as test, since the test labels are not public; labels 0 to 364."""
    return Dataset(
        "places365",
        SHAPE,
        {"test": 36_500},
        "non-commercial research and education only",
        "http://places2.csail.mit.edu/",
        _read,
        _fetch,
        "validation split (small images) as test; centre crop, bilinear to 32x32",
        RAW,
    )
