"""CIFAR-10: small colour photographs of ten classes (Krizhevsky 2009)."""

from pathlib import Path

import numpy as np

from oodgen.data.catalog import Dataset, Read, require
from oodgen.data.images import open_torchvision

__all__ = ["cifar10"]

FOLDER = "cifar-10-batches-py"
RAW = {
    "train": (*(f"{FOLDER}/data_batch_{i}" for i in range(1, 6)), f"{FOLDER}/batches.meta"),
    "test": (f"{FOLDER}/test_batch", f"{FOLDER}/batches.meta"),
}


def _read(root: Path, split: str) -> Read:
    # torchvision checks all seven files, whichever split is read
    require(root, *RAW[split], *RAW["train"], *RAW["test"])
    from torchvision.datasets import CIFAR10

    dataset = open_torchvision(lambda: CIFAR10(root, train=split == "train"), "cifar10", [root / FOLDER])
    return dataset.data.transpose(0, 3, 1, 2), np.array(dataset.targets, np.int64)


def _fetch(root: Path) -> None:
    from torchvision.datasets import CIFAR10

    CIFAR10(root, download=True)


def cifar10() -> Dataset:
    """CIFAR-10 in the official Python batches; labels 0 to 9."""
    return Dataset(
        "cifar10",
        (3, 32, 32),
        {"train": 50_000, "test": 10_000},
        "not stated",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        _read,
        _fetch,
        "as published",
        RAW,
    )
