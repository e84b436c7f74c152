"""Figures: what they draw is what the arrays say."""

import numpy as np
import pytest

from oodgen import figures
from oodgen.errors import UserError


@pytest.fixture
def scores():
    random = np.random.default_rng(0)
    return {
        "photos": random.normal(0, 1, 400),
        "digits": random.normal(2, 1, 300),
        "uniform_noise": random.normal(900, 1, 200),
    }


def lines(axis):
    return {line.get_label(): line.get_xydata() for line in axis.get_lines() if not line.get_label().startswith("_")}


def test_the_area_under_a_drawn_roc_is_the_auroc(scores):
    figure = figures.roc({"l>0": scores}, "photos")
    drawn = lines(figure.axes[0])
    assert set(drawn) == {"digits", "uniform_noise"}
    a, b = scores["photos"][:, None], scores["digits"][None]
    x, y = drawn["digits"].T
    assert np.trapezoid(y, x) == pytest.approx(np.mean((b > a) + 0.5 * (b == a)), abs=2e-3)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)


def test_a_long_roc_keeps_its_area_with_few_points():
    random = np.random.default_rng(0)
    inlier, out = random.normal(0, 1, 5000), random.normal(1, 1, 4000)
    x, y = figures.roc_points(inlier, out, 100)
    assert len(x) <= 101 and len(figures.roc_points(inlier, out, 20_000)[0]) == 9001
    assert np.trapezoid(y, x) == pytest.approx(np.trapezoid(*figures.roc_points(inlier, out, 20_000)[::-1]), abs=1e-3)


def test_ties_are_one_step_of_the_roc():
    figure = figures.roc({"s": {"in": np.array([0.0, 1.0]), "out": np.array([1.0, 1.0])}}, "in")
    assert [tuple(p) for p in lines(figure.axes[0])["out"]] == [(0, 0), (0.5, 1), (1, 1)]


def test_a_density_integrates_to_one_and_sits_where_its_scores_are(scores):
    drawn = lines(figures.densities({"l>0": scores}, "photos").axes[0])
    for name, centre in (("photos (in)", 0), ("digits", 2)):
        x, y = drawn[name].T
        assert np.trapezoid(y, x) == pytest.approx(1, abs=0.02)
        assert np.trapezoid(x * y, x) == pytest.approx(centre, abs=0.15)


def test_a_far_set_is_named_instead_of_squeezing_the_others(scores):
    axis = figures.densities({"l>0": scores}, "photos").axes[0]
    assert axis.get_xlim()[1] < 20 and "uniform_noise" not in lines(axis)
    assert [text.get_text() for text in axis.texts] == ["uniform_noise, 900 →"]


@pytest.mark.parametrize("values", [np.zeros(50), np.array([1.0]), np.array([np.nan, 1.0, np.inf, 2.0])])
def test_degenerate_scores_can_be_drawn(tmp_path, values):
    for draw in (figures.roc, figures.densities):
        figures.save(draw({"s": {"in": values, "out": values}}, "in"), tmp_path / "x.svg")
        assert (tmp_path / "x.svg").stat().st_size > 1000


def test_a_set_looks_the_same_everywhere_and_known_companions_differ():
    assert figures.style("something new") == figures.style("something new")
    for together in (
        ("digits", "glyphs", "uniform_noise", "gaussian_noise", "hflip", "vflip"),
        ("mnist", "kmnist", "omniglot", "omniglot_inverted", "notmnist", "smallnorb", "smallnorb_inverted", "vflip"),
        ("svhn", "gtsrb", "celeba", "places365", "flowers102", "lfw", "imagenet32", "uniform_noise"),
    ):
        assert len({figures.style(name) for name in together}) == len(together)


@pytest.mark.parametrize("channels", [1, 3])
def test_reconstructions_keep_every_pixel_and_label_the_levels(channels):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, channels, 8, 8), dtype=np.uint8)
    axis = figures.reconstructions(images, "digits").axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["x", "z>0", "z>1", "z>2"]
    shown = np.asarray(axis.images[0].get_array()).reshape(4 * 9 - 1, 3 * 9 - 1, channels)
    assert (shown[9:17, 18:26] == images[1, 2].transpose(1, 2, 0)).all()


def test_curves_skip_gaps_and_draw_what_there_is():
    step = np.arange(6.0)
    metrics = {"step": step, "train/bound": step - 9, "val/bound": np.array([np.nan, -8, np.nan, -6, np.nan, -5])}
    (axis,) = figures.curves(metrics).axes
    assert lines(axis)["val bound"].tolist() == [[1, -8], [3, -6], [5, -5]]
    assert len(figures.curves({**metrics, "beta": step, "train/kl_1": step}).axes) == 3
    assert figures.curves({"step": step, "lr": step}) is None
    assert figures.curves({"step": step, "beta": np.full(6, np.nan)}) is None


def test_progress_has_a_panel_for_each_out_set_and_a_point_for_each_value_measured():
    nan = float("nan")
    measured = {"l>0": [(1, 0.1, nan), (2, 0.2, nan), (8, 0.3, nan)], "llr>1 mode": [(2, 0.9, 0.1), (8, 0.8, 0.1)]}
    figure = figures.progress({"mnist": measured, "kmnist": {"llr>1": [(1, 0.6, nan)]}}, "samples", powers=True)
    left, _ = figure.axes
    assert lines(left)["l>0"].tolist() == [[1, 0.1], [2, 0.2], [8, 0.3]]
    assert lines(left)["llr>1 mode"].tolist() == [[2, 0.9], [8, 0.8]]
    assert (left.get_xscale(), left.get_xlabel()) == ("log", "samples")
    assert [text.get_text() for text in left.get_xticklabels()] == ["1", "2", "8"]
    (band,) = left.collections
    assert band.get_paths()[0].vertices[:, 1].min() == pytest.approx(0.7)
    colours = {line.get_label(): line.get_color() for axis in figure.axes for line in axis.get_lines()}
    assert colours["llr>1"] == colours["llr>1 mode"] != colours["l>0"], "a variant keeps its score's colour"
    assert figures.progress({"mnist": measured}).axes[0].get_xscale() == "linear"


def test_a_figure_is_the_same_file_twice_and_never_a_part(tmp_path, scores):
    for name in ("a.svg", "b.svg"):
        figures.save(figures.roc({"l>0": scores}, "photos"), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        figures.save(figures.roc({"l>0": scores}, "photos"), tmp_path / "file" / "c.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.svg", "b.svg", "file"]
