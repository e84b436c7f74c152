"""The command that draws the reconstructions of several runs: their labels, and one line for each mistake."""

import json

import numpy as np
import pytest

from oodgen import compare


@pytest.fixture
def run(tmp_path):
    """Makes a finished run of one set of images."""
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 1, 8, 8), dtype=np.uint8)

    def make(experiment="e", name="abcdef", seed=0):
        folder = tmp_path / "eval" / experiment / name
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps({"experiment": experiment, "seed": seed}))
        np.savez(folder / "reconstructions.npz", digits=images)
        return folder

    return make


def test_runs_are_told_apart_by_as_few_words_as_it_takes(run):
    a, b, c, d = run("one"), run("two"), run("two", "fedcba", seed=1), run("two", "ffffff", seed=1)
    assert list(compare.labels([a, b])) == ["one", "two"]
    assert list(compare.labels([b, c])) == ["two seed 0", "two seed 1"]
    assert list(compare.labels([c, d])) == ["two seed 1 fedcba", "two seed 1 ffffff"]
    assert compare.labels([a, b])["two"] == b


@pytest.mark.parametrize("name", ["out.png", "out.svg"])
def test_the_figure_is_written_where_it_was_asked_for(run, tmp_path, capsys, name):
    words = [str(run("one")), str(run("two")), "--sets", "digits", "--out", str(tmp_path / name)]
    assert compare.main(words) == 0
    assert (tmp_path / name).stat().st_size > 1000 and capsys.readouterr().out.strip() == str(tmp_path / name)


def test_mistakes_are_one_line(run, tmp_path, capsys):
    good, out = str(run()), ["--out", str(tmp_path / "x.png")]
    for words, said in (
        ([good, str(tmp_path / "gone"), *out], "gone is not there"),
        ([good, str(tmp_path), *out], "is no finished run"),
        ([good, good, *out], "given twice"),
        ([good, "--sets", "photos", *out], "no reconstructions of photos; it has: digits"),
        ([good, "--out", "x.gif"], "x.gif is neither"),
    ):
        assert compare.main(words) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    assert not (tmp_path / "x.png").exists()
