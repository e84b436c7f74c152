"""The look: a set is known by its colour and dash, and a figure is the same file twice."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from oodgen.errors import UserError
from oodgen.plots import style


def test_a_set_looks_the_same_everywhere_and_known_companions_differ():
    assert style.line_style("something new") == style.line_style("something new")
    for together in (
        ("digits", "glyphs", "uniform_noise", "gaussian_noise", "hflip", "vflip"),
        ("mnist", "kmnist", "omniglot", "omniglot_inverted", "notmnist", "smallnorb", "smallnorb_inverted", "vflip"),
        ("fashion_mnist", "mnist", "kmnist", "omniglot", "emnist_letters", "cifar10", "svhn", "gtsrb", "imagenet32"),
        ("svhn", "gtsrb", "celeba", "places365", "flowers102", "lfw", "imagenet32", "uniform_noise"),
    ):
        assert len({style.line_style(name) for name in together}) == len(together)


@pytest.fixture
def figure():
    figure = Figure()
    axis = figure.subplots()
    axis.fill_between([0, 1, 2], [0, 3, 1], label="clip paths have names")
    figure.legend()
    return figure


def test_a_figure_is_the_same_file_twice_and_never_a_part(tmp_path, figure):
    for name in ("a.svg", "b.svg"):
        style.save(figure, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        style.save(figure, tmp_path / "file" / "c.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.svg", "b.svg", "file"]


def test_spare_panels_are_hidden_and_a_name_stands_once_in_the_legend():
    figure, axes = style.panels(3, 2, 2.0, 2.0)
    for axis in axes[:3]:
        axis.plot([0, 1], label="same")
    style.add_legend(figure, axes, 3)
    assert [axis.get_visible() for axis in axes] == [True, True, True, False]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["same"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mosaic_keeps_every_pixel_and_labels_its_rows(channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, channels, 8, 8), dtype=np.uint8)
    axis = Figure().subplots()
    shape = style.mosaic(axis, images, ["x", "z"])
    shown = np.asarray(axis.images[0].get_array()).reshape(2 * 9 - 1, 3 * 9 - 1, channels)
    assert shape == pytest.approx(17 / 26)
    assert (shown[9:17, 18:26] == images[1, 2].transpose(1, 2, 0)).all()
    assert [t.get_text() for t in axis.get_yticklabels()] == ["x", "z"]
