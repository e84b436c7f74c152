"""CelebA: faces of celebrities (Liu et al. 2015)."""

from pathlib import Path

from oodgen.data.catalog import Dataset, Read, require
from oodgen.data.images import from_torchvision, open_torchvision

__all__ = ["celeba"]

SHAPE = (3, 32, 32)
TABLES = (
    "list_eval_partition.txt",
    "identity_CelebA.txt",
    "list_attr_celeba.txt",
    "list_bbox_celeba.txt",
    "list_landmarks_align_celeba.txt",
)
FILES = (*(f"celeba/{table}" for table in TABLES), "celeba/img_align_celeba")
RAW = {"train": FILES, "test": FILES}


def _read(root: Path, split: str) -> Read:
    require(root, *RAW[split])
    from torchvision.datasets import CelebA

    files = [root / "celeba" / table for table in TABLES]
    return from_torchvision(open_torchvision(lambda: CelebA(root, split, "identity"), "celeba", files), SHAPE)


def _fetch(root: Path) -> None:
    from torchvision.datasets import CelebA

    CelebA(root, download=True)


def celeba() -> Dataset:
    """CelebA, aligned: the largest centred square, bilinear to 32x32; labels are the persons."""
    return Dataset(
        "celeba",
        SHAPE,
        {"train": 162_770, "test": 19_962},
        "non-commercial research only",
        "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        _read,
        _fetch,
        "aligned images, centre crop 178x178, bilinear to 32x32; fetching needs `pip install gdown`, or unpack "
        "img_align_celeba.zip and the five tables into ROOT/celeba by hand",
        RAW,
    )
