"""CIFAR-10 and CIFAR-100: small colour photographs of ten and of a hundred classes (Krizhevsky 2009)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from oodgen.data.catalog import Dataset, Read, require
from oodgen.data.images import open_torchvision

__all__ = ["cifar10", "cifar100"]

FOLDER, FOLDER_100 = "cifar-10-batches-py", "cifar-100-python"
RAW = {
    "train": (*(f"{FOLDER}/data_batch_{i}" for i in range(1, 6)), f"{FOLDER}/batches.meta"),
    "test": (f"{FOLDER}/test_batch", f"{FOLDER}/batches.meta"),
}
RAW_100 = {split: (f"{FOLDER_100}/{split}", f"{FOLDER_100}/meta") for split in ("train", "test")}


def _torchvision(name: str) -> Any:
    from torchvision import datasets

    return getattr(datasets, name.upper())


def _dataset(name: str, raw: Mapping[str, tuple[str, ...]]) -> Dataset:
    def read(root: Path, split: str) -> Read:
        # torchvision checks all files, whichever split is read
        require(root, *raw[split], *raw["train"], *raw["test"])
        files = [root / raw["test"][0].split("/")[0]]
        dataset = open_torchvision(lambda: _torchvision(name)(root, train=split == "train"), name, files)
        return dataset.data.transpose(0, 3, 1, 2), np.array(dataset.targets, np.int64)

    def fetch(root: Path) -> None:
        _torchvision(name)(root, download=True)

    source = "https://www.cs.toronto.edu/~kriz/cifar.html"
    sizes = {"train": 50_000, "test": 10_000}
    return Dataset(name, (3, 32, 32), sizes, "not stated", source, read, fetch, "as published", raw)


def cifar10() -> Dataset:
    """CIFAR-10 in the official Python batches; labels 0 to 9."""
    return _dataset("cifar10", RAW)


def cifar100() -> Dataset:
    """CIFAR-100 in the official Python batches; fine labels 0 to 99. Near to CIFAR-10: other classes of its kind."""
    return _dataset("cifar100", RAW_100)
