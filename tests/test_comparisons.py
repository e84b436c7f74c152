"""Pictures of several runs: every number and every image stands in its place, and runs of other images are refused."""

import numpy as np
import pytest

from oodgen import comparisons
from oodgen.errors import UserError


def lines(axis):
    return {line.get_label(): line.get_xydata() for line in axis.get_lines() if not line.get_label().startswith("_")}


def test_progress_has_a_panel_for_each_out_set_and_a_point_for_each_value_measured():
    nan = float("nan")
    measured = {"l>0": [(1, 0.1, nan), (2, 0.2, nan), (8, 0.3, nan)], "llr>1 mode": [(2, 0.9, 0.1), (8, 0.8, 0.1)]}
    figure = comparisons.progress({"mnist": measured, "kmnist": {"llr>1": [(1, 0.6, nan)]}}, "samples", powers=True)
    left, _ = figure.axes
    assert lines(left)["l>0"].tolist() == [[1, 0.1], [2, 0.2], [8, 0.3]]
    assert lines(left)["llr>1 mode"].tolist() == [[2, 0.9], [8, 0.8]]
    assert (left.get_xscale(), left.get_xlabel()) == ("log", "samples")
    assert [text.get_text() for text in left.get_xticklabels()] == ["1", "2", "8"]
    (band,) = left.collections
    assert band.get_paths()[0].vertices[:, 1].min() == pytest.approx(0.7)
    colours = {line.get_label(): line.get_color() for axis in figure.axes for line in axis.get_lines()}
    assert colours["llr>1"] == colours["llr>1 mode"] != colours["l>0"], "a variant keeps its score's colour"
    assert comparisons.progress({"mnist": measured}).axes[0].get_xscale() == "linear"


def test_ratios_stand_in_row_and_column_and_what_is_missing_is_left_empty():
    nan = float("nan")
    values = {"a": {"a": 1.01, "b": 0.5, "c": 2.0}, "b": {"b": 1.0, "a": nan}}
    (axis,) = comparisons.ratios(values).axes
    texts = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axis.texts}
    assert texts == {(0, 0): "1.01", (0, 1): "0.50", (0, 2): "2.00", (1, 1): "1.00"}
    assert [t.get_text() for t in axis.get_xticklabels()] == ["a", "b", "c"]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a", "b"]


def test_ratios_diverge_around_one_alike_to_both_sides():
    (axis,) = comparisons.ratios({"a": {"a": 1.0, "b": 0.8, "c": 1.25, "d": 90.0, "e": 1 / 90}}).axes
    red, _, blue, alpha = axis.images[0].to_rgba(axis.images[0].get_array())[0].T
    assert (alpha == 1).all() and [red[0], blue[0]] == pytest.approx([1, 1], abs=0.01)
    assert red[1] > blue[1] and red[2] < blue[2] and red[4] > blue[4] and red[3] < blue[3]


def test_ratios_of_nothing_can_be_drawn():
    assert comparisons.ratios({"a": {"a": float("nan")}}).axes[0].texts[:] == []


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
    figure = comparisons.side_by_side(runs)
    (axis,) = figure.axes
    assert axis.get_title("left") == "digits" and [t.get_text() for t in axis.get_yticklabels()] == [
        "x",
        "VAE",
        "BPVAE",
    ]
    shown = np.asarray(axis.images[0].get_array())
    vae, bpvae = (comparisons.images(runs[label])["digits"] for label in ("VAE", "BPVAE"))
    for row, images in enumerate((vae[0], vae[1], bpvae[1])):
        assert (shown[9 * row : 9 * row + 8, 36:44] == images[4, 0]).all()


def test_the_sets_asked_for_are_panels_in_that_order(runs):
    figure = comparisons.side_by_side({"VAE": runs["VAE"]}, ["photos", "digits"])
    assert [axis.get_title("left") for axis in figure.axes] == ["photos", "digits"]


def test_runs_that_cannot_be_compared_are_refused_in_one_line(runs, tmp_path):
    with pytest.raises(UserError, match="BPVAE has no reconstructions of photos; it has: digits"):
        comparisons.side_by_side(runs, ["photos"])
    with pytest.raises(UserError, match="nowhere holds no reconstructions"):
        comparisons.side_by_side({**runs, "none": tmp_path / "nowhere"})
    other = comparisons.images(runs["BPVAE"])["digits"].copy()
    other[0, 0, 0, 0, 0] ^= 1
    np.savez(runs["BPVAE"] / "reconstructions.npz", digits=other)
    with pytest.raises(UserError, match=r"images of digits differ between .*VAE and .*BPVAE"):
        comparisons.side_by_side(runs)
    np.savez(runs["BPVAE"] / "reconstructions.npz", glyphs=other)
    with pytest.raises(UserError, match="no data set is in all of VAE, BPVAE"):
        comparisons.side_by_side(runs)
    (runs["BPVAE"] / "reconstructions.npz").write_bytes(b"PK cut")
    with pytest.raises(UserError, match=r"cannot read .*BPVAE.reconstructions\.npz"):
        comparisons.side_by_side(runs)
