r"""The catalogue's vocabulary, and the one way from a data set's name to a memory-mapped array.

Each set is decoded once, from the files its authors published, into `ROOT/prepared/<name>/<split>.npy` (uint8,
N x C x H x W, or float32 rows) with its labels and a record of its hash beside it. From then on it is only mapped. A
file of a user's own in that form is a data set too. A part of an official split never passes for the whole: its origin
says so.
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
from oodgen.runs.files import check_name, sha256, whole, write_text

__all__ = ["Dataset", "Read", "Split", "Transform", "exists", "find", "load", "prepare", "require", "verify"]

Read = tuple[np.ndarray, np.ndarray | None]


@final
@dataclass(frozen=True)
class Dataset:
    """A set of examples: what it is, and how to read and fetch it.

    Arguments:
        name: The name in the catalogue and of the folder under ROOT/prepared.
        shape: One example as prepared, (C, H, W) for images, (D,) for rows.
        sizes: Official split to number of examples; {} if unknown.
        licence: Under what terms the data may be used.
        source: Home page of the data.
        read: (root, split) to uint8 (N, C, H, W) or float32 (N, D), and labels (N,) or None; decodes the raw files
            under the root; raises FileNotFoundError naming the first one that is missing.
        fetch: Downloads the raw files under a root; None if there is nothing to download, or nowhere.
        about: One line: choices made (split, crop, size), and how to obtain the set by hand.
        raw: Split to the raw files or folders it is decoded from, relative to the root, each with or without `.gz`.
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
    """A loaded split: memory-mapped examples, labels, where they came from, and the SHA-256 of the .npy file."""

    x: np.ndarray
    y: np.ndarray | None
    name: str
    split: str
    origin: str
    sha256: str


@final
@dataclass(frozen=True)
class Transform:
    """An out set made from the inlier's test split: (uint8 (N, C, H, W), seed) to uint8 (N, C, H, W)."""

    name: str
    apply: Callable[[np.ndarray, int], np.ndarray]


def exists(path: Path) -> bool:
    """Whether a raw file is there, plain or gzipped."""
    return path.exists() or path.with_name(path.name + ".gz").exists()


def require(root: Path, *names: str) -> None:
    """Raise FileNotFoundError for the first of the raw files that is not under the root, plain or gzipped."""
    for name in names:
        if not exists(root / name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(root / name))


def load(dataset: Dataset, split: str, root: Path) -> Split:
    """A split of a set: prepared, or else decoded from its raw files, or else the prepared `<split>_sample`.

    Arguments:
        dataset: An entry of the catalogue.
        split: "train", "test" or another name the set has.
        root: The data root.

    Raises:
        UserError: nothing of it is there, or what is there is damaged or not what it should be.
    """
    try:
        return find(dataset, split, root)
    except FileNotFoundError as error:
        raise _absent(dataset, split, root, error) from error


def prepare(dataset: Dataset, split: str, root: Path) -> Path:
    """Decode a split once into ROOT/prepared/<name>/<split>.npy; return that path.

    Two processes that prepare the same split take turns, and the second one finds the work done.

    Raises:
        UserError: a raw file is missing or damaged, or the disk is full.
    """
    try:
        return _prepare(dataset, split, root)
    except FileNotFoundError as error:
        raise _absent(dataset, split, root, error) from error


def verify(dataset: Dataset, split: str, root: Path) -> Split:
    """Load a prepared split and compare the whole of its files with the recorded hashes.

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
    mend = f"run: python -m oodgen.data fetch {dataset.name} --root {root}" if dataset.fetch else dataset.about
    return UserError(f"{dataset.name}: no {split} split under {root}: {error.filename} is missing; {mend}")


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
                f"{dataset.name}: the raw files of the {split} split under {root} hold {len(x):,} examples, not "
                f"{expected:,}; delete them and obtain them again"
            )
        try:
            # labels first: whoever sees the examples sees their labels
            if y is not None:
                _save(labels, y)
            _save(path, x)
            _write_record(dataset, path, sha256(path), _origin(dataset, split, len(x), own=False))
        except BaseException:
            for file in (path, labels, record):
                file.unlink(missing_ok=True)
            raise
    return path


def _save(path: Path, array: np.ndarray) -> None:
    with whole(path) as temporary, temporary.open("wb") as file:
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
            raise UserError(f"{path} holds NaN or infinite numbers; remove those rows")
        digest, origin = sha256(path), _origin(dataset, split, len(x), own=True)
    # the record only saves work: a folder that cannot be written is no reason to refuse the data
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
        scale = ", images as 0 to 255" if dtype == np.uint8 else ""
        raise UserError(f"{path} holds {x.dtype}; {dataset.name} wants {dtype}{scale}")
    if x.shape[1:] != dataset.shape or x.ndim != 1 + len(dataset.shape):
        raise UserError(f"{path} has shape {x.shape}; {dataset.name} wants {wanted}")
    if len(x) == 0:
        raise UserError(f"{path} is empty; {dataset.name} wants at least one example")
    if y is not None and y.shape != (len(x),):
        raise UserError(f"{path.with_name(path.stem + '_labels.npy')} has shape {y.shape} for {len(x):,} examples")


def _origin(dataset: Dataset, split: str, count: int, own: bool) -> str:
    base = split.removesuffix("_sample")
    official = dataset.sizes.get(base)
    if official == count and split == base:
        return f"official {base} split"
    of = f"the official {base} split" + (f" of {official:,}" if official else "")
    if split != base or (official and not own):
        return f"sample of {count:,}, not {of}"
    if own:
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
            f"{file} is not a record ({error}); delete it, and {path.name} counts as your own file"
        ) from error
    return record
