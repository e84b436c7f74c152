"""What load, prepare and verify promise: whole files, honest origins, one clear line for each fault."""

import json
import os
import resource
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oodgen.data.catalog import Dataset, find, load, prepare, verify
from oodgen.data.inverted import inverted
from oodgen.errors import UserError

X = np.random.default_rng(0).integers(0, 256, (6, 1, 4, 5), np.uint8)


def toy(x=X, y=None, reads=None, **fields) -> Dataset:
    """A set whose one raw file is `toy/<split>.raw`."""

    def read(root: Path, split: str):
        if not (root / f"toy/{split}.raw").exists():
            raise FileNotFoundError(2, "No such file", str(root / f"toy/{split}.raw"))
        if reads is not None:
            reads.append(split)
        return x, y

    base = Dataset("toy", (1, 4, 5), {"train": 60, "test": 6}, "none", "https://example.org", read)
    return replace(base, fetch=lambda root: None, **fields)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "test.raw").touch()
    return tmp_path


def put(root: Path, array: np.ndarray, split: str = "test") -> Path:
    path = root / "prepared" / "toy" / f"{split}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def fault(root: Path, split: str = "test", dataset: Dataset | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load(dataset or toy(), split, root)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_decoded_once_and_mapped(root):
    reads = []
    dataset = toy(y=np.arange(6), reads=reads)
    first, second = load(dataset, "test", root), load(dataset, "test", root)
    assert reads == ["test"]
    np.testing.assert_array_equal(second.x, X)
    np.testing.assert_array_equal(second.y, np.arange(6))
    assert isinstance(second.x, np.memmap)
    assert first[2:] == second[2:] == ("toy", "test", "official test split", first.sha256)
    record = json.loads((root / "prepared/toy/test.json").read_text())
    assert (record["shape"], record["sha256"]) == ([6, 1, 4, 5], first.sha256)
    assert record["bytes"] == (root / "prepared/toy/test.npy").stat().st_size


def test_read_only_memory(root):
    with pytest.raises(ValueError, match="read-only"):
        load(toy(), "test", root).x[0] = 0


def test_hash_follows_content(root, tmp_path):
    one = load(toy(), "test", root).sha256
    other = tmp_path / "other"
    (other / "toy").mkdir(parents=True)
    (other / "toy/test.raw").touch()
    assert load(toy(), "test", other).sha256 == one
    put(root, X[::-1])
    (root / "prepared/toy/test.json").unlink()
    assert load(toy(), "test", root).sha256 != one


def test_missing_names_file_root_and_command(tmp_path):
    message = fault(tmp_path)
    assert str(tmp_path / "toy/test.raw") in message
    assert f"python -m oodgen.data fetch toy --root {tmp_path}" in message
    by_hand = fault(tmp_path, dataset=replace(toy(), fetch=None, about="ask the author"))
    assert "ask the author" in by_hand and "fetch" not in by_hand
    assert not (tmp_path / "prepared/toy/test.npy").exists()


def test_raw_list_is_checked_before_anything_is_written(tmp_path):
    message = fault(tmp_path, dataset=toy(raw={"test": ("toy/test.raw",)}))
    assert str(tmp_path / "toy/test.raw") in message
    assert not (tmp_path / "prepared").exists()


def test_sample_is_the_last_resort_and_says_so(tmp_path):
    put(tmp_path, X[:3], "test_sample")
    found = load(toy(), "test", tmp_path)
    assert (found.split, found.origin) == ("test_sample", "sample of 3, not the official test split of 6")
    assert load(toy(), "test_sample", tmp_path).origin == found.origin
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/test.raw").touch()
    assert load(toy(), "test", tmp_path).origin == "official test split"


def test_a_sample_as_large_as_the_official_split_stays_a_sample(tmp_path):
    put(tmp_path, X, "test_sample")
    assert load(toy(), "test", tmp_path).origin.startswith("sample of 6")


@pytest.mark.parametrize("count", [3, 12])
def test_own_file_of_another_size_is_not_official(tmp_path, count):
    put(tmp_path, np.resize(X, (count, 1, 4, 5)))
    for _ in range(2):
        assert load(toy(), "test", tmp_path).origin == f"user's own file of {count}, not the official test split of 6"


def test_own_file_of_the_official_size(tmp_path):
    put(tmp_path, X)
    assert load(toy(), "test", tmp_path).origin == "official test split"
    assert (tmp_path / "prepared/toy/test.json").exists()


def test_own_file_in_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    put(tmp_path, X)

    def refuse(path, text):
        raise UserError("read-only")

    monkeypatch.setattr("oodgen.data.catalog.write_text", refuse)
    assert load(toy(), "test", tmp_path).sha256
    assert not (tmp_path / "prepared/toy/test.json").exists()


def test_own_split_the_catalogue_does_not_know(tmp_path):
    put(tmp_path, X, "extra")
    assert load(toy(), "extra", tmp_path).origin == "user's own file of 6"
    assert "it has train, test" in fault(tmp_path, "nonsense")


def test_incomplete_raw_files_are_refused(root):
    message = fault(root, dataset=toy(x=X[:4]))
    assert "contain 4 examples, not 6" in message
    assert not list((root / "prepared/toy").glob("*.npy"))


def test_truncated(tmp_path):
    path = put(tmp_path, X)
    path.write_bytes(path.read_bytes()[:-1])
    assert str(path) in fault(tmp_path)
    path.write_bytes(b"\x93NUM")
    assert str(path) in fault(tmp_path)
    path.write_bytes(b"")
    assert str(path) in fault(tmp_path)


def test_objects_are_never_unpickled(tmp_path):
    path = put(tmp_path, X)
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    assert str(path) in fault(tmp_path)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (X.astype(np.float32) / 255, "float32; toy needs uint8"),
        (np.full(X.shape, np.nan), "float64; toy needs uint8"),
        (X.transpose(0, 2, 3, 1), "(N, 1, 4, 5)"),
        (X[:, 0], "(N, 1, 4, 5)"),
        (X[0, 0, 0, 0], "(N, 1, 4, 5)"),
        (X[:0], "empty"),
    ],
)
def test_wrong_content(tmp_path, array, words):
    path = put(tmp_path, array)
    message = fault(tmp_path)
    assert words in message and str(path) in message


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_must_be_finite(tmp_path, bad):
    rows = replace(toy(), shape=(3,))
    array = np.ones((6, 3), np.float32)
    put(tmp_path, array)
    assert load(rows, "test", tmp_path).x.dtype == np.float32
    (tmp_path / "prepared/toy/test.json").unlink()
    array[5, 2] = bad
    put(tmp_path, array)
    assert "NaN or infinite" in fault(tmp_path, dataset=rows)


def test_labels_of_another_length(tmp_path):
    put(tmp_path, X)
    put(tmp_path, np.arange(5), "test_labels")
    assert "test_labels.npy has shape (5,) for 6" in fault(tmp_path)


def test_altered_file(root):
    dataset = toy()
    digest = load(dataset, "test", root).sha256
    path = root / "prepared/toy/test.npy"
    os.utime(path, (1, 1))
    assert load(dataset, "test", root).sha256 == digest  # touched, not changed
    put(root, 255 - X)
    assert digest[:12] in fault(root) and "delete it" in fault(root)
    (root / "prepared/toy/test.json").unlink()
    np.testing.assert_array_equal(load(dataset, "test", root).x, 255 - X)


def test_verify_reads_everything(root):
    dataset = toy(y=np.arange(6))
    load(dataset, "test", root)
    verify(dataset, "test", root)
    path = root / "prepared/toy/test.npy"
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    load(dataset, "test", root)  # the cheap check cannot see it
    with pytest.raises(UserError, match=r"test\.npy is not the file"):
        verify(dataset, "test", root)


def test_verify_sees_altered_labels(root):
    dataset = toy(y=np.arange(6))
    load(dataset, "test", root)
    put(root, np.zeros(6, int), "test_labels")
    with pytest.raises(UserError, match=r"test_labels\.npy is not the file"):
        verify(dataset, "test", root)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": "1"'])
def test_broken_record(root, text):
    load(toy(), "test", root)
    (root / "prepared/toy/test.json").write_text(text)
    assert "test.json is not a valid record" in fault(root)


@pytest.mark.parametrize("labels", [None, np.zeros(6, int)])
def test_failing_disk_leaves_nothing(root, labels):
    big = np.zeros((6, 1, 100, 100), np.uint8)
    dataset = replace(toy(big, labels), shape=(1, 100, 100))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        message = fault(root, dataset=dataset)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "test.npy" in message and "free some space" in message
    assert [path.name for path in (root / "prepared/toy").iterdir() if not path.name.endswith(".lock")] == []
    assert load(dataset, "test", root).origin == "official test split"


def test_two_at_once_decode_once(root):
    reads, found = [], []
    gate = threading.Event()
    dataset = toy(reads=reads)

    def slow(at: Path, split: str):
        gate.wait(5)
        return dataset.read(at, split)

    patient = replace(dataset, read=slow)
    threads = [threading.Thread(target=lambda: found.append(load(patient, "test", root))) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert reads == ["test"] and len({split.sha256 for split in found}) == 1 and len(found) == 4


def test_inverted_from_prepared_raw_or_sample(root):
    base = toy(y=np.arange(6))
    found = load(inverted(base), "test", root)
    np.testing.assert_array_equal(found.x, 255 - X)
    np.testing.assert_array_equal(found.y, np.arange(6))
    assert (found.name, found.origin) == ("toy_inverted", "official test split")
    put(root, X[:2], "train_sample")
    assert load(inverted(base), "train", root).origin == "sample of 2, not the official train split of 60"


def test_inverted_missing(tmp_path):
    message = fault(tmp_path, dataset=inverted(toy()))
    assert "fetch toy_inverted" in message and "toy/test.raw" in message
    with pytest.raises(FileNotFoundError):
        find(inverted(toy()), "test", tmp_path)


def test_prepare_returns_the_file(root):
    path = prepare(toy(), "test", root)
    np.testing.assert_array_equal(np.load(path), X)
    with pytest.raises(UserError, match=r"train\.raw is missing"):
        prepare(toy(), "train", root)
