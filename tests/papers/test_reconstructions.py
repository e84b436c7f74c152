"""Reconstructions of several runs: their labels, every image in its place, and one line for each mistake."""

import json

import numpy as np
import pytest

from oodgen.errors import UserError
from oodgen.papers import reconstructions
from oodgen.report import page


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
    assert list(reconstructions.labels([a, b])) == ["one", "two"]
    assert list(reconstructions.labels([b, c])) == ["two seed 0", "two seed 1"]
    assert list(reconstructions.labels([c, d])) == ["two seed 1 fedcba", "two seed 1 ffffff"]
    assert reconstructions.labels([a, b])["two"] == b


@pytest.mark.parametrize("name", ["out.png", "out.svg"])
def test_the_figure_is_written_where_it_was_asked_for(run, tmp_path, capsys, name):
    words = [str(run("one")), str(run("two")), "--sets", "digits", "--out", str(tmp_path / name)]
    assert reconstructions.main(words) == 0
    assert (tmp_path / name).stat().st_size > 1000 and capsys.readouterr().out.strip() == str(tmp_path / name)


def test_mistakes_are_one_line(run, tmp_path, capsys):
    good, out = str(run()), ["--out", str(tmp_path / "x.png")]
    for words, said in (
        ([good, str(tmp_path / "gone"), *out], "gone does not exist"),
        ([good, str(tmp_path), *out], "is not a finished run"),
        ([good, good, *out], "given twice"),
        ([good, "--sets", "photos", *out], "no reconstructions of photos; it has: digits"),
        ([good, "--out", "x.gif"], "x.gif does not end in"),
    ):
        assert reconstructions.main(words) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


@pytest.fixture
def runs(tmp_path):
    """Two runs of the same images: grey digits in both, photos in one."""
    random = np.random.default_rng(0)
    originals = {name: random.integers(0, 256, (5, 1, 8, 8), dtype=np.uint8) for name in ("digits", "photos")}
    folders = {}
    for label, names in (("VAE", ("digits", "photos")), ("BPVAE", ("digits",))):
        made = {n: np.stack([originals[n], *random.integers(0, 256, (2, 5, 1, 8, 8), dtype=np.uint8)]) for n in names}
        folders[label] = tmp_path / label
        folders[label].mkdir()
        np.savez(folders[label] / "reconstructions.npz", **made)
    return folders


def test_runs_are_drawn_below_the_images_they_share(runs):
    figure = reconstructions.side_by_side(runs)
    (axis,) = figure.axes
    assert axis.get_title("left") == "digits" and [t.get_text() for t in axis.get_yticklabels()] == [
        "x",
        "VAE",
        "BPVAE",
    ]
    shown = np.asarray(axis.images[0].get_array())
    vae, bpvae = (page.read_reconstructions(runs[label])["digits"] for label in ("VAE", "BPVAE"))
    for row, images in enumerate((vae[0], vae[1], bpvae[1])):
        assert (shown[9 * row : 9 * row + 8, 36:44] == images[4, 0]).all()


def test_the_sets_asked_for_are_panels_in_that_order(runs):
    figure = reconstructions.side_by_side({"VAE": runs["VAE"]}, ["photos", "digits"])
    assert [axis.get_title("left") for axis in figure.axes] == ["photos", "digits"]


def test_runs_that_cannot_be_compared_are_refused_in_one_line(runs, tmp_path):
    with pytest.raises(UserError, match="BPVAE has no reconstructions of photos; it has: digits"):
        reconstructions.side_by_side(runs, ["photos"])
    with pytest.raises(UserError, match="nowhere has no reconstructions"):
        reconstructions.side_by_side({**runs, "none": tmp_path / "nowhere"})
    other = page.read_reconstructions(runs["BPVAE"])["digits"].copy()
    other[0, 0, 0, 0, 0] ^= 1
    np.savez(runs["BPVAE"] / "reconstructions.npz", digits=other)
    with pytest.raises(UserError, match=r"images of digits differ between .*VAE and .*BPVAE"):
        reconstructions.side_by_side(runs)
    np.savez(runs["BPVAE"] / "reconstructions.npz", glyphs=other)
    with pytest.raises(UserError, match="no data set is in all of VAE, BPVAE"):
        reconstructions.side_by_side(runs)
    np.savez(runs["BPVAE"] / "reconstructions.npz", digits=other[:1])
    with pytest.raises(UserError, match="holds digits of shape"):
        reconstructions.side_by_side(runs)
    np.savez_compressed(runs["BPVAE"] / "reconstructions.npz", digits=other)
    content = bytearray((runs["BPVAE"] / "reconstructions.npz").read_bytes())
    content[100:140] = bytes(40)  # a bad disk, inside of what is compressed
    (runs["BPVAE"] / "reconstructions.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*BPVAE.reconstructions\.npz"):
        reconstructions.side_by_side(runs)
    (runs["BPVAE"] / "reconstructions.npz").write_bytes(b"PK cut")
    with pytest.raises(UserError, match=r"cannot read .*BPVAE.reconstructions\.npz"):
        reconstructions.side_by_side(runs)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"digits": np.zeros((2, 0, 1, 8, 8), np.uint8)}, "no pictures"),
        ({"digits": np.zeros((2, 5, 0, 8, 8), np.uint8)}, "no pictures"),
        ({"digits": np.zeros((2, 1, 1, 1, 200_000), np.uint8)}, "no pictures"),
        ({"digits": np.full((2, 5, 1, 8, 8), np.nan)}, "no pictures"),
        ({"digits": np.full((2, 5, 1, 8, 8), "a")}, "no pictures"),
        ({f"set{i}": np.zeros((2, 1, 1, 1, 1), np.uint8) for i in range(201)}, "more than 200 sets"),
        ({"digits": np.zeros((2, 2**15, 1, 64, 64), np.uint8)}, "268,435,456 bytes"),  # 263 kB of a file
    ],
)
def test_pictures_of_a_stranger_are_pictures_and_few(runs, made, words):
    np.savez_compressed(runs["VAE"] / "reconstructions.npz", **made)
    with pytest.raises(UserError, match=words) as found:
        reconstructions.side_by_side(runs)
    assert "\n" not in str(found.value)
