"""Folders of a run found again, and no folder of the machine told."""

import pytest

from oodgen.runs import locations


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs=/home/me/runs seed=0", "runs=runs seed=0"),
        ("{root: /data/x, out: '/a b'}", "{root: x, out: 'a b'}"),
        ("cannot write /tmp/x/y.ckpt: no space", "cannot write y.ckpt: no space"),
        ("~/runs/ and file:///home/me/x", "runs and x"),
        ("data/out=mnist, 1/2, https://a.b/c, a / b", "data/out=mnist, 1/2, https://a.b/c, a / b"),
    ],
)
def test_absolute_paths_are_cut_to_their_last_name(text, expected):
    assert locations.without_directories(text) == expected
    assert locations.without_directories({"a": [text, 1], "b": None}) == {"a": [expected, 1], "b": None}


def test_a_training_is_found_where_the_runs_were_moved_to(tmp_path):
    folder, record = tmp_path / "runs" / "eval" / "e" / "abc", {"fingerprint": "f", "train_dir": str(tmp_path / "old")}
    folder.mkdir(parents=True)
    assert locations.training_folder(folder, record) is None
    (tmp_path / "old").mkdir()
    assert locations.training_folder(folder, record) == tmp_path / "old"
    (tmp_path / "runs" / "train" / "f").mkdir(parents=True)
    assert locations.training_folder(folder, record) == tmp_path / "runs" / "train" / "f", "beside the evaluation first"
    assert locations.training_folder(folder, {}) is None
