"""The fraud table: read in its true format, quoted or not, split without a row on two sides, its damage named."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from oodgen.data import credit_fraud as module
from oodgen.data.catalog import load
from oodgen.data.credit_fraud import HEADER, credit_fraud, credit_fraud_frauds, credit_fraud_known, table
from oodgen.errors import UserError


def lines(normals: int = 40, frauds: int = 7, quoted: bool = True) -> list[str]:
    """A small table in the true format; Time is the line's number, one normal row and the middle fraud come twice."""
    rng = np.random.default_rng(0)
    mark = '"' if quoted else ""
    rows = [",".join(f"{mark}{name}{mark}" for name in HEADER)]
    for i in range(normals + frauds):
        if i in (3, normals + 3):
            rows.append(rows[-1])
            continue
        numbers = [str(i), *(f"{x:.13g}" for x in rng.standard_normal(28)), f"{100 * rng.random():.2f}"]
        rows.append(",".join([*numbers, f"{mark}{int(i >= normals)}{mark}"]))
    return rows


def write(root: Path, rows: list[str]) -> Path:
    path = root / "creditcard" / "creditcard.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(module, "HELD", 5)
    monkeypatch.setattr(module, "NORMALS", 40)
    monkeypatch.setattr(module, "FRAUDS", 7)
    write(tmp_path, lines())
    return tmp_path


@pytest.mark.parametrize("form", ["quoted", "plain", "windows", "mark", "gzipped"])
def test_every_form_of_the_file_reads_alike(tmp_path, form):
    path = write(tmp_path, lines(quoted=form != "plain"))
    data = path.read_bytes()
    if form == "windows":
        path.write_bytes(data.replace(b"\n", b"\r\n"))
    elif form == "mark":
        path.write_bytes(b"\xef\xbb\xbf" + data)
    elif form == "gzipped":
        path.with_name("creditcard.csv.gz").write_bytes(gzip.compress(data))
        path.unlink()
    x, fraud = table(tmp_path)
    wanted = np.array([[float(field.strip('"')) for field in row.split(",")] for row in lines()[1:]])
    assert x.dtype == np.float32 and x.shape == (47, 30)
    np.testing.assert_array_equal(x, wanted[:, :30].astype(np.float32))
    np.testing.assert_array_equal(fraud, wanted[:, 30] == 1)


def rows_of(dataset, split, root) -> list[bytes]:
    return [row.tobytes() for row in dataset.read(root, split)[0]]


def test_normals_are_split_once_and_for_all(root):
    train, test = (rows_of(credit_fraud(), split, root) for split in ("train", "test"))
    x, fraud = table(root)
    assert sorted(train + test) == sorted(row.tobytes() for row in x[~fraud])
    assert len(test) == 5 and not set(train) & set(test)
    assert test == rows_of(credit_fraud(), "test", root)
    assert len(load(credit_fraud(), "train", root).x) == 35, "sizes are those of the splits"


def test_a_row_that_comes_twice_is_never_held_out(root, monkeypatch):
    monkeypatch.setattr(module, "HELD", 38)  # of 40, two of which are equal
    train = rows_of(credit_fraud(), "train", root)
    assert len(train) == 2 and train[0] == train[1]


def test_all_frauds_are_tested_and_none_can_be_trained_with(root):
    x, fraud = table(root)
    np.testing.assert_array_equal(load(credit_fraud_frauds(), "test", root).x, x[fraud])
    with pytest.raises(UserError, match="credit_fraud_frauds has no split 'train'; it has test"):
        load(credit_fraud_frauds(), "train", root)


def test_known_frauds_are_halves_that_share_no_row(root):
    train, test = (rows_of(credit_fraud_known(), split, root) for split in ("train", "test"))
    assert (len(train), len(test)) == (3, 4) and not set(train) & set(test)
    assert sorted(train + test) == sorted(rows_of(credit_fraud_frauds(), "test", root))


def changed(row: int, column: int, field: str):
    def change(rows: list[str]) -> list[str]:
        fields = rows[row].split(",")
        fields[column] = field
        return [*rows[:row], ",".join(fields), *rows[row + 1 :]]

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (changed(4, 2, "abc"), r"creditcard\.csv: line 5, column V2: 'abc' is not a finite number"),
        (changed(4, 2, ""), "line 5, column V2: ''"),
        (changed(46, 29, "nan"), "line 47, column Amount: 'nan'"),
        (changed(9, 0, "-1e60"), "line 10, column Time: '-1e60'"),
        (changed(9, 30, '"2"'), "line 10, column Class: '2' is not 0 or 1"),
        (changed(7, 3, "1,2"), "line 8 has 32 columns, not 31"),
        (lambda rows: [*rows[:-1], rows[-1][:40]], r"line 48 has \d columns"),
        (lambda rows: [",".join(row.split(",")[1:]) for row in rows], "line 1 is not Time,V1,...,Class"),
        (changed(0, 5, '"V6"'), "line 1 is not"),
        (lambda rows: rows[1:], "line 1 is not"),
        (lambda rows: rows[:1], "not a table of finite numbers"),
        (lambda rows: [], "line 1 is not"),
    ],
)
def test_damage_is_named_by_line_and_column(tmp_path, damage, words):
    write(tmp_path, damage(lines()))
    with pytest.raises(UserError, match=words) as error:
        table(tmp_path)
    assert "\n" not in str(error.value) and "obtain it again" in str(error.value)


def test_a_cut_gzip_is_damaged(tmp_path):
    path = write(tmp_path, lines())
    path.with_name("creditcard.csv.gz").write_bytes(gzip.compress(path.read_bytes())[:-30])
    path.unlink()
    with pytest.raises(UserError, match=r"creditcard\.csv\.gz: .*obtain it again"):
        table(tmp_path)


def test_a_shorter_table_is_not_the_published_one(tmp_path):
    write(tmp_path, lines())
    with pytest.raises(UserError, match=r"test split .* 7 examples, not 492"):
        load(credit_fraud_frauds(), "test", tmp_path)


def test_a_missing_file_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"creditcard\.csv is missing; .*Kaggle.*ROOT/creditcard/creditcard\.csv"):
        load(credit_fraud(), "train", tmp_path)


def test_the_published_table(data_root):
    if not (data_root / module.FILE).exists():
        pytest.skip(f"no {module.FILE}")
    x, fraud = table(data_root)
    assert (len(x), fraud.sum()) == (284_807, 492) and len(x) == module.NORMALS + module.FRAUDS
    np.testing.assert_allclose(x[0, [0, 1, 29]], [0, -1.3598071, 149.62], rtol=1e-6)
    for dataset, sizes in ((credit_fraud(), (283_823, 492)), (credit_fraud_known(), (246, 246))):
        train, test = (rows_of(dataset, split, data_root) for split in ("train", "test"))
        assert (len(train), len(test)) == sizes == tuple(dataset.sizes.values())
        assert not set(train) & set(test)
