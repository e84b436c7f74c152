"""results.csv of a stranger: rows, or one line."""

import os

import pytest

from oodgen.errors import UserError
from oodgen.runs import results

ROW = results.Row("e", "f", 0, "in", "out", "l>0", "auroc", 0.5, 0.4, 0.6, "full", 9, 9)


def test_rows_are_read_as_written(tmp_path):
    rows = [ROW, ROW._replace(out='a\nb,"c"', value=-1e300)]
    results.write(tmp_path / "results.csv", rows)
    assert results.read(tmp_path / "results.csv") == rows


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda path: path.unlink(), "there is no such file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "it is not a regular file"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "it is not a regular file"),
        (lambda path: os.truncate(path, 2**40), "it has more than 67,108,864 bytes"),
        (lambda path: path.write_text(path.read_text().replace("l>0", "9" * 5000)), "a name of 5,000 characters"),
        (lambda path: path.write_text(path.read_text().replace(",9", "," + "9" * 5000)), "cannot read"),
        (lambda path: path.write_text(path.read_text().replace("score", "scores")), "has no column score"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "can't decode byte"),
    ],
)
def test_others_are_one_line_at_once(tmp_path, change, why):
    path = tmp_path / "results.csv"
    results.write(path, [ROW])
    change(path)
    with pytest.raises(UserError, match=why) as found:
        results.read(path)
    assert "\n" not in str(found.value)
