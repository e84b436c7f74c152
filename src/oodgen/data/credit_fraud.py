r"""Credit-card transactions of two days in 2013 (Dal Pozzolo et al. 2015): the normal ones, and the 492 frauds.

A row holds the seconds since the first transaction, 28 principal components and the amount, float32, unscaled (see
`oodgen.data.rows`). 773 of the rows occur more than once; equal rows are in the same split.
"""

import csv
import gzip
import math
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import numpy as np

from oodgen.data.catalog import Dataset, Read, require
from oodgen.errors import UserError

__all__ = ["credit_fraud", "credit_fraud_frauds", "credit_fraud_known", "table"]

FILE = "creditcard/creditcard.csv"
COLUMNS = ("Time", *(f"V{i}" for i in range(1, 29)), "Amount")
HEADER = (*COLUMNS, "Class")
NORMALS, FRAUDS = 284_315, 492
HELD = 492  # normal test rows, as many as there are frauds
LARGEST = float(np.finfo(np.float32).max)
AGAIN = "delete it and obtain it again"


def table(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """The published table: rows (N, 30), float32, and a mask of the frauds (N,), bool.

    Arguments:
        root: The data root; fields may be quoted or not.

    Raises:
        FileNotFoundError: the file is missing.
        UserError: it is damaged, or another table; names the line and column.
    """
    require(root, FILE)
    path = root / FILE if (root / FILE).exists() else root / f"{FILE}.gz"
    try:
        with _opened(path) as file:
            header = next(csv.reader(file), [])
        if tuple(header) != HEADER:
            raise UserError(f"{path}: line 1 is not {HEADER[0]},{HEADER[1]},...,{HEADER[-1]}; {AGAIN}")
        with warnings.catch_warnings():  # numpy warns of a table without rows, which is refused below
            warnings.simplefilter("ignore")
            values = np.loadtxt(path, np.float32, None, ",", skiprows=1, ndmin=2, encoding="utf-8", quotechar='"')
        whole = values.shape[1] == len(HEADER) and len(values) > 0
        if not whole or not np.isfinite(values).all() or not np.isin(values[:, -1], (0, 1)).all():
            raise ValueError("it is not a table of finite numbers with classes 0 and 1")
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path}: {_fault(path) or error}; {AGAIN}") from error
    return np.ascontiguousarray(values[:, :-1]), values[:, -1] == 1


def _opened(path: Path) -> TextIO:
    # spreadsheets may write a byte-order mark before the first name
    options = {"encoding": "utf-8-sig", "errors": "replace", "newline": ""}
    return gzip.open(path, "rt", **options) if path.suffix == ".gz" else path.open(**options)  # type: ignore[call-overload]


def _fault(path: Path) -> str:
    """The first fault, by line and column, in a table that numpy could not read; "" if none is found."""
    try:
        with _opened(path) as file:
            lines = csv.reader(file)
            next(lines)
            for fields in filter(None, lines):
                if len(fields) != len(HEADER):
                    return f"line {lines.line_num} has {len(fields)} columns, not {len(HEADER)}"
                for name, field in zip(HEADER, fields, strict=True):
                    if not abs(_number(field)) <= LARGEST or (name == "Class" and _number(field) not in (0, 1)):
                        kind = "0 or 1" if name == "Class" else "a finite number"
                        return f"line {lines.line_num}, column {name}: {field!r} is not {kind}"
    except (EOFError, OSError, csv.Error, zlib.error):
        return ""
    return ""


def _number(field: str) -> float:
    try:
        return float(field)
    except ValueError:
        return math.nan


def _groups(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group equal rows of x (N, D): the group index of each row (N,), and the size of each group."""
    rows = x.view(np.dtype((np.void, x.dtype.itemsize * x.shape[1]))).ravel()
    _, group, count = np.unique(rows, return_inverse=True, return_counts=True)
    return group, count


def _normals(root: Path, split: str) -> Read:
    x, fraud = table(root)
    x = x[~fraud]
    group, count = _groups(x)
    alone = np.flatnonzero(count[group] == 1)
    held = np.isin(np.arange(len(x)), np.random.default_rng(0).permutation(alone)[:HELD])
    return x[held if split == "test" else ~held], None


def _frauds(root: Path, split: str) -> Read:
    x, fraud = table(root)
    return x[fraud], None


def _known(root: Path, split: str) -> Read:
    x, _ = _frauds(root, split)
    group, count = _groups(x)
    half, taken = len(x) // 2, 0
    train = np.zeros(len(count), bool)
    for number in np.random.default_rng(0).permutation(len(count)):
        if taken + count[number] <= half:
            train[number], taken = True, taken + count[number]
    return x[train[group] == (split == "train")], None


def _part(name: str, sizes: dict[str, int], read: Callable[[Path, str], Read], about: str) -> Dataset:
    return Dataset(
        name,
        (len(COLUMNS),),
        sizes,
        "ODbL 1.0 (contents: DbCL 1.0)",
        "https://www.kaggle.com/datasets/mlg-ulb/creditcardfraud",
        read,
        None,
        f"{about}; sign in at Kaggle, download the archive and unpack it to ROOT/{FILE}",
        dict.fromkeys(sizes, (FILE,)),
    )


def credit_fraud() -> Dataset:
    """Normal transactions: 492 unique rows, chosen with seed 0, as test, and the others as train."""
    sizes = {"train": NORMALS - HELD, "test": HELD}
    return _part("credit_fraud", sizes, _normals, f"normal rows; {HELD} of them held out as test, seed 0")


def credit_fraud_frauds() -> Dataset:
    """All 492 frauds as test, without a train split, for models that are trained on normal rows only."""
    return _part("credit_fraud_frauds", {"test": FRAUDS}, _frauds, "all frauds, to test with")


def credit_fraud_known() -> Dataset:
    """The frauds in two halves, seed 0: the train half for methods that use negatives, the other one as test."""
    sizes = {"train": FRAUDS // 2, "test": FRAUDS - FRAUDS // 2}
    return _part("credit_fraud_known", sizes, _known, "frauds, one half to train with and one to test, seed 0")
