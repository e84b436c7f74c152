"""ImageNet32: ImageNet at 32x32 pixels (Chrabaszcz, Loshchilov, Hutter 2017)."""

import pickle
from pathlib import Path
from typing import Any, final

import numpy as np

from oodgen.data.catalog import Dataset, Read, require
from oodgen.errors import UserError

__all__ = ["decode", "imagenet32"]

SHAPE = (3, 32, 32)
RAW = {"train": tuple(f"imagenet32/train_data_batch_{i}" for i in range(1, 11)), "test": ("imagenet32/val_data",)}
ALLOWED = {
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


@final
class _Arrays(pickle.Unpickler):
    """Unpickles arrays and plain values only, since a pickle can execute code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def decode(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """One pickled batch: uint8 (N, 3, 32, 32), stored as planes of red, green, blue, and labels 1 to 1000.

    Raises:
        UserError: it is damaged, or contains other objects than arrays.
    """
    try:
        with path.open("rb") as file:
            batch = _Arrays(file, encoding="latin1").load()
        return np.asarray(batch["data"]).reshape(-1, *SHAPE), np.asarray(batch["labels"], np.int64)
    except (pickle.UnpicklingError, ValueError, EOFError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path} is not a batch of ImageNet32 ({error}); unpack it again") from error


def _read(root: Path, split: str) -> Read:
    require(root, *RAW[split])
    batches = [decode(root / name) for name in RAW[split]]
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


def imagenet32() -> Dataset:
    """ImageNet32: official training batches as train, validation images as test; labels 1 to 1000."""
    return Dataset(
        "imagenet32",
        SHAPE,
        {"train": 1_281_167, "test": 50_000},
        "non-commercial research and education only",
        "https://www.image-net.org/download-images.php",
        _read,
        None,
        "validation images as test; register at the source, unpack Imagenet32_train.zip and Imagenet32_val.zip into "
        "ROOT/imagenet32 (preparing train takes 8 GB of memory)",
        RAW,
    )
