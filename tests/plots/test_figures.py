"""Figures: what they draw is what the arrays say."""

import numpy as np
import pytest

from oodgen.plots import figures, style


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


@pytest.mark.parametrize(
    "values", [np.zeros(50), np.array([1.0]), np.full(3, -70.25), np.array([np.nan, 1.0, np.inf, 2.0])]
)
def test_degenerate_scores_can_be_drawn(tmp_path, values):
    for draw in (figures.roc, figures.densities):
        style.save(draw({"s": {"in": values, "out": values}}, "in"), tmp_path / "x.svg")
        assert (tmp_path / "x.svg").stat().st_size > 1000


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
    (axis,) = figures.curves({"step": step, "train/log_py": step, "val/log_py": metrics["val/bound"]}).axes
    assert set(lines(axis)) == {"train log py", "val log py"} and axis.get_title(loc="left") == "log p(y|x)"
    assert axis.get_ylabel() == "nats"
    (axis,) = figures.curves({"step": step, "train/critic_gap": step, "val/critic_gap": metrics["val/bound"]}).axes
    assert set(lines(axis)) == {"train critic gap", "val critic gap"} and axis.get_title(loc="left") == "critic gap"
    assert figures.curves({"step": step, "lr": step}) is None
    assert figures.curves({"step": step, "beta": np.full(6, np.nan)}) is None


@pytest.fixture
def bounds():
    random = np.random.default_rng(0)
    return {
        "photos": random.normal(-300, 40, 4000),
        "digits": random.normal(-200, 20, 4000),
        "glyphs": random.normal(-9000, 300, 4000),
    }


def test_likelihoods_stand_where_they_are_and_as_large_as_they_are_many_however_far(bounds):
    (axis,) = figures.likelihoods(bounds, "photos").axes
    drawn = lines(axis)
    assert set(drawn) == {"photos (in)", "digits", "glyphs"}
    ahead, areas = axis.get_xaxis().get_transform(), []
    for name, centre in (("photos (in)", -300), ("digits", -200), ("glyphs", -9000)):
        x, y = drawn[name][np.isfinite(drawn[name][:, 1])].T
        assert x[np.argmax(y)] == pytest.approx(centre, rel=0.1)
        areas.append(np.trapezoid(y, ahead.transform(x)))
    assert areas == pytest.approx([areas[0]] * 3, rel=0.02), "equal areas are equal numbers of examples"
    low, high = axis.get_xlim()
    assert low < -9000 and high > -200


@pytest.mark.parametrize("shift", [0.0, -700.0, 5000.0])
def test_likelihoods_have_ticks_at_round_numbers_apart_from_each_other(bounds, shift):
    (axis,) = figures.likelihoods({name: values + shift for name, values in bounds.items()}, "photos").axes
    low, high = axis.get_xlim()
    ticks = axis.get_xticks()
    assert len(ticks) >= 4 and all(low <= x <= high for x in ticks)
    places = np.sort(axis.get_xaxis().get_transform().transform(ticks))
    assert np.diff(places).min() > 0.05 * (places[-1] - places[0])
    assert all(float(t.get_text().replace(",", "")) == x for t, x in zip(axis.get_xticklabels(), ticks, strict=True))


@pytest.mark.parametrize("values", [np.full(50, -3.0), np.array([-1.0, -2.0]), np.array([np.nan, -1.0, -np.inf, -2.0])])
def test_degenerate_likelihoods_can_be_drawn(tmp_path, values):
    style.save(figures.likelihoods({"in": values, "out": np.zeros(9)}, "in"), tmp_path / "x.svg")
    assert (tmp_path / "x.svg").stat().st_size > 1000
