r"""The types of the catalogue of data sets, and the loading of a set as a memory-mapped array.

Each set is decoded once, from the published files, into `ROOT/prepared/<name>/<split>.npy` (uint8, (N, C, H, W), or
float32 rows (N, D)), with `<split>_labels.npy` and a record of the hashes. Later it is memory-mapped. A user may put
files of this form there. The `origin` of a split states whether it is the official one or a sample.
"""

import errno
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from filelock import FileLock

from oodgen.errors import UserError
from oodgen.runs.files import atomic_path, check_name, sha256, write_text

__all__ = ["Dataset", "Read", "Split", "Transform", "exists", "find", "load", "prepare", "require", "verify"]

Read = tuple[np.ndarray, np.ndarray | None]


@final
@dataclass(frozen=True)
class Dataset:
    """A data set: its description, and how to read and download it.

    Arguments:
        name: Name in the catalogue and of the folder under ROOT/prepared.
        shape: Shape of an example, (C, H, W) for images, (D,) for rows.
        sizes: Split -> number of examples; {} if unknown.
        licence: Terms of use.
        source: Home page of the data.
        read: `read(root, split)` decodes the raw files under the root to uint8 (N, C, H, W) or float32 (N, D), and
            labels (N,) or None; it raises FileNotFoundError with the first missing file.
        fetch: `fetch(root)` downloads the raw files; None if they cannot be, or need not be, downloaded.
        about: One line: choices made (split, crop, size), and how to obtain the set by hand.
        raw: Split -> raw files or folders, relative to the root, each with or without `.gz`.
        of: The set from which this one is derived.
    """

    name: str
    shape: tuple[int, ...]
    sizes: Mapping[str, int]
    licence: str
    source: str
    read: Callable[[Path, str], Read]
    fetch: Callable[[Path], None] | None = None
    about: str = ""
    raw: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    of: "Dataset | None" = None

    def __post_init__(self) -> None:
        check_name(self.name, "the name of a data set")


class Split(NamedTuple):
    """A loaded split: memory-mapped examples, labels, their origin, and the SHA-256 of the .npy file."""

    x: np.ndarray
    y: np.ndarray | None
    name: str
    split: str
    origin: str
    sha256: str


@final
@dataclass(frozen=True)
class Transform:
    """An out set made from the inlier's test split; `apply` maps (uint8 (N, C, H, W), seed) to uint8 (N, C, H, W)."""

    name: str
    apply: Callable[[np.ndarray, int], np.ndarray]


def exists(path: Path) -> bool:
    """Whether a raw file exists, plain or gzipped."""
    return path.exists() or path.with_name(path.name + ".gz").exists()


def require(root: Path, *names: str) -> None:
    """Raise FileNotFoundError for the first of the raw files that is missing under the root, plain or gzipped."""
    for name in names:
        if not exists(root / name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(root / name))


def load(dataset: Dataset, split: str, root: Path) -> Split:
    """Load a split: the prepared one, else decoded from raw files, else the prepared `<split>_sample`.

    Arguments:
        dataset: An entry of the catalogue.
        split: "train", "test" or another split of the set.
        root: The data root.

    Raises:
        UserError: there are no files of it, or they are damaged or of the wrong form.
    """
    try:
        return find(dataset, split, root)
    except FileNotFoundError as error:
        raise _absent(dataset, split, root, error) from error


def prepare(dataset: Dataset, split: str, root: Path) -> Path:
    """Decode a split once into ROOT/prepared/<name>/<split>.npy; return that path.

    A lock makes concurrent processes wait for the first one.

    Raises:
        UserError: a raw file is missing or damaged, or the disk is full.
    """
    try:
        return _prepare(dataset, split, root)
    except FileNotFoundError as error:
        raise _absent(dataset, split, root, error) from error


def verify(dataset: Dataset, split: str, root: Path) -> Split:
    """Load a prepared split and compare its files with the recorded hashes.

    Raises:
        UserError: a file is damaged or differs from its record.
    """
    return _open(dataset, split, _folder(dataset, root), full=True)


def find(dataset: Dataset, split: str, root: Path) -> Split:
    """Like `load`, but raises FileNotFoundError naming the first missing raw file."""
    folder = _folder(dataset, root)
    if not (folder / f"{split}.npy").exists():
        try:
            _prepare(dataset, split, root)
        except FileNotFoundError:
            split = f"{split}_sample"
            if not (folder / f"{split}.npy").exists():
                raise
    return _open(dataset, split, folder)


def _folder(dataset: Dataset, root: Path) -> Path:
    return root / "prepared" / dataset.name


def _absent(dataset: Dataset, split: str, root: Path, error: FileNotFoundError) -> UserError:
    advice = f"run: python -m oodgen.data fetch {dataset.name} --root {root}" if dataset.fetch else dataset.about
    return UserError(f"{dataset.name}: no {split} split under {root}: {error.filename} is missing; {advice}")


def _prepare(dataset: Dataset, split: str, root: Path) -> Path:
    if dataset.sizes and split not in dataset.sizes:
        raise UserError(f"{dataset.name} has no split {split!r}; it has {', '.join(dataset.sizes)}")
    require(root, *dataset.raw.get(split, ()))
    folder = _folder(dataset, root)
    path, labels, record = folder / f"{split}.npy", folder / f"{split}_labels.npy", folder / f"{split}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{split}.lock").acquire()
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}; choose another root") from error
    with lock:
        if path.exists():
            return path
        x, y = dataset.read(root, split)
        _check(dataset, path, x, y)
        if dataset.of is None and len(x) != (expected := dataset.sizes.get(split, len(x))):
            raise UserError(
                f"{dataset.name}: the raw files of the {split} split under {root} contain {len(x):,} examples, not "
                f"{expected:,}; delete them and obtain them again"
            )
        try:
            # labels first, since the examples mark the split as prepared
            if y is not None:
                _save(labels, y)
            _save(path, x)
            _write_record(dataset, path, sha256(path), _origin(dataset, split, len(x), user_file=False))
        except BaseException:
            for file in (path, labels, record):
                file.unlink(missing_ok=True)
            raise
    return path


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(array))


def _open(dataset: Dataset, split: str, folder: Path, full: bool = False) -> Split:
    path, labels = folder / f"{split}.npy", folder / f"{split}_labels.npy"
    x = _mapped(path)
    y = np.array(_mapped(labels)) if labels.exists() else None
    _check(dataset, path, x, y)
    record, status = _read_record(path), path.stat()
    if record and not full and (record["bytes"], record["mtime_ns"]) == (status.st_size, status.st_mtime_ns):
        return Split(x, y, dataset.name, split, record["origin"], record["sha256"])
    if record:
        for file, known in ((path, record["sha256"]), (labels, record["labels_sha256"])):
            if known is not None and (not file.exists() or sha256(file) != known):
                raise UserError(
                    f"{file} is not the file that was recorded (its SHA-256 began with {known[:12]}); delete it to "
                    f"obtain it again, or delete {path.with_suffix('.json')} to accept it as your own"
                )
        digest, origin = record["sha256"], record["origin"]
    else:
        if x.dtype.kind == "f" and not all(np.isfinite(x[i : i + 65536]).all() for i in range(0, len(x), 65536)):
            raise UserError(f"{path} contains NaN or infinite numbers; remove those rows")
        digest, origin = sha256(path), _origin(dataset, split, len(x), user_file=True)
    # the record only saves hashing: data in a read-only folder can be used without
    with suppress(UserError):
        _write_record(dataset, path, digest, origin)
    return Split(x, y, dataset.name, split, origin, digest)


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} cannot be read as a .npy array ({error}); delete it and obtain it again") from error


def _check(dataset: Dataset, path: Path, x: np.ndarray, y: np.ndarray | None) -> None:
    dtype = np.dtype(np.uint8 if len(dataset.shape) == 3 else np.float32)
    wanted = f"(N, {', '.join(map(str, dataset.shape))})"
    if x.dtype != dtype:
        scale = ", values 0 to 255" if dtype == np.uint8 else ""
        raise UserError(f"{path} has dtype {x.dtype}; {dataset.name} needs {dtype}{scale}")
    if x.shape[1:] != dataset.shape or x.ndim != 1 + len(dataset.shape):
        raise UserError(f"{path} has shape {x.shape}; {dataset.name} needs {wanted}")
    if len(x) == 0:
        raise UserError(f"{path} is empty; {dataset.name} needs at least one example")
    if y is not None and y.shape != (len(x),):
        raise UserError(f"{path.with_name(path.stem + '_labels.npy')} has shape {y.shape} for {len(x):,} examples")


def _origin(dataset: Dataset, split: str, count: int, user_file: bool) -> str:
    base = split.removesuffix("_sample")
    official = dataset.sizes.get(base)
    if official == count and split == base:
        return f"official {base} split"
    of = f"the official {base} split" + (f" of {official:,}" if official else "")
    if split != base or (official and not user_file):
        return f"sample of {count:,}, not {of}"
    if user_file:
        return f"user's own file of {count:,}" + (f", not {of}" if official else "")
    return f"user's own {split} part of {count:,}"


def _write_record(dataset: Dataset, path: Path, digest: str, origin: str) -> None:
    labels, status = path.with_name(f"{path.stem}_labels.npy"), path.stat()
    record = {
        "sha256": digest,
        "labels_sha256": sha256(labels) if labels.exists() else None,
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "shape": np.load(path, mmap_mode="r").shape,
        "source": dataset.source,
        "origin": origin,
        "prepared": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_text(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")


def _read_record(path: Path) -> dict[str, Any] | None:
    file = path.with_suffix(".json")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if not {"sha256", "labels_sha256", "bytes", "mtime_ns", "origin"} <= record.keys():
            raise ValueError("entries are missing")
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{file} is not a valid record ({error}); delete it to use {path.name} as your own file"
        ) from error
    return record
