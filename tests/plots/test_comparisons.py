"""Pictures of several runs: every number stands in its place."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from oodgen.plots import comparisons


def lines(axis):
    return {line.get_label(): line.get_xydata() for line in axis.get_lines() if not line.get_label().startswith("_")}


def test_progress_has_a_panel_for_each_out_set_and_a_point_for_each_value_measured():
    nan = float("nan")
    measured = {"l>0": [(1, 0.1, nan), (2, 0.2, nan), (8, 0.3, nan)], "llr>1 mode": [(2, 0.9, 0.1), (8, 0.8, 0.1)]}
    figure = comparisons.auroc_over_option(
        {"mnist": measured, "kmnist": {"llr>1": [(1, 0.6, nan)]}}, "samples", powers=True
    )
    left, _ = figure.axes
    assert lines(left)["l>0"].tolist() == [[1, 0.1], [2, 0.2], [8, 0.3]]
    assert lines(left)["llr>1 mode"].tolist() == [[2, 0.9], [8, 0.8]]
    assert (left.get_xscale(), left.get_xlabel()) == ("log", "samples")
    assert [text.get_text() for text in left.get_xticklabels()] == ["1", "2", "8"]
    (band,) = left.collections
    assert band.get_paths()[0].vertices[:, 1].min() == pytest.approx(0.7)
    colours = {line.get_label(): line.get_color() for axis in figure.axes for line in axis.get_lines()}
    assert colours["llr>1"] == colours["llr>1 mode"] != colours["l>0"], "a variant keeps its score's colour"
    assert comparisons.auroc_over_option({"mnist": measured}).axes[0].get_xscale() == "linear"


def test_long_names_of_runs_stay_inside_the_picture():
    images = np.zeros((8, 1, 28, 28), np.uint8)
    made = {f"fashion_mnist_llr_ada_cpu_with_a_long_name seed {seed} 0123456789ab": images for seed in range(5)}
    for sets in (1, 2):
        figure = comparisons.reconstructions({str(i): (images, made) for i in range(sets)})
        FigureCanvasAgg(figure).draw()
        assert min(label.get_window_extent().x0 for label in figure.axes[0].get_yticklabels()) >= 0
        assert figure.axes[0].get_window_extent().x1 <= figure.bbox.width


def test_ratios_stand_in_row_and_column_and_what_is_missing_is_left_empty():
    nan = float("nan")
    values = {"a": {"a": 1.01, "b": 0.5, "c": 2.0}, "b": {"b": 1.0, "a": nan}}
    (axis,) = comparisons.likelihood_ratio_matrix(values).axes
    texts = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axis.texts}
    assert texts == {(0, 0): "1.01", (0, 1): "0.50", (0, 2): "2.00", (1, 1): "1.00"}
    assert [t.get_text() for t in axis.get_xticklabels()] == ["a", "b", "c"]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a", "b"]


def test_ratios_diverge_around_one_alike_to_both_sides():
    (axis,) = comparisons.likelihood_ratio_matrix({"a": {"a": 1.0, "b": 0.8, "c": 1.25, "d": 90.0, "e": 1 / 90}}).axes
    red, _, blue, alpha = axis.images[0].to_rgba(axis.images[0].get_array())[0].T
    assert (alpha == 1).all() and [red[0], blue[0]] == pytest.approx([1, 1], abs=0.01)
    assert red[1] > blue[1] and red[2] < blue[2] and red[4] > blue[4] and red[3] < blue[3]


def test_ratios_of_nothing_can_be_drawn():
    assert comparisons.likelihood_ratio_matrix({"a": {"a": float("nan")}}).axes[0].texts[:] == []
