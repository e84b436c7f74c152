"""Correlations of the codes of two models: against numpy, blind to order and sign, and as a command."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oodgen.config.stored import StoredRun
from oodgen.errors import UserError
from oodgen.papers import layer_correlation
from oodgen.plots.comparisons import correlation_matrix


def features(n=200, d=4, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_against_numpy():
    a, b = features(), features(d=3, seed=1)
    b[:, 0] += a[:, 2]
    r = np.abs(np.corrcoef(a.T, b.T)[:4, 4:])
    assert layer_correlation.correlation(a, b) == pytest.approx((r.max(1).mean() + r.max(0).mean()) / 2)
    assert layer_correlation.correlation(a, b) == pytest.approx(layer_correlation.correlation(b, a))


def test_the_widest_layers_are_compared_part_by_part(monkeypatch):
    a, b = features(d=7), features(d=5, seed=1)
    whole = layer_correlation.correlation(a, b)
    monkeypatch.setattr(layer_correlation, "ROWS", 3)
    seen, product = [], torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda x, y: seen.append(len(x)) or product(x, y))
    assert layer_correlation.correlation(a, b) == pytest.approx(whole, rel=1e-12)
    assert seen == [3, 3, 1]  # of 32,768 features each, as z_1 of CIFAR-10 has, all at once would be 9 gigabytes


def test_order_sign_scale_and_shift_do_not_count_and_constants_are_left_out():
    a = features()
    b = a[:, [2, 0, 3, 1]] * torch.tensor([-1.0, 5.0, 1e-3, 1.0]) + 7
    assert layer_correlation.correlation(a, torch.cat([b, torch.full((200, 2), 3.0)], 1)) == pytest.approx(1)
    assert math.isnan(layer_correlation.correlation(a, torch.ones(200, 2)))
    assert layer_correlation.correlation(features(20_000), features(20_000, seed=1)) < 0.03


def test_picture_says_every_number_and_leaves_out_what_is_none():
    figure = correlation_matrix([[1.0, 0.25], [0.5, math.nan]], ["one", "two"], "mnist")
    (axis,) = figure.axes
    assert sorted(text.get_text() for text in axis.texts) == ["0.25", "0.50", "1.00"]
    assert (axis.get_ylabel(), axis.get_xlabel(), axis.get_title("left")) == ("one", "two", "on mnist")


def test_command(command, tiny, tmp_path, capsys):
    ended = command(*tiny, "smoke=true", draw=True)
    assert ended.code == 0, ended.err
    run = Path(ended.out.split()[-1]).parent
    other = shutil.copytree(run, run.with_name("f" * 8))
    runs = [str(run), str(other)]
    out = tmp_path / "figure.svg"
    assert layer_correlation.main([*runs, "--set", "kmnist", "--out", str(out)]) == 0
    assert out.stat().st_size > 1000 and capsys.readouterr().out.strip() == str(out)
    for wrong, words in (
        ([*runs, "--out", "figure.pdf"], "does not end in .png or .svg"),
        ([*runs, "--set", "svhn", "--out", str(out)], "has no set svhn"),
        ([runs[0], str(tmp_path), "--out", str(out)], "is not a finished run"),
        ([*runs, "--count", "2", "--out", str(out)], "from 3 to"),
    ):
        assert layer_correlation.main(wrong) == 2
        error = capsys.readouterr().err
        assert words in error and error.startswith("oodgen: ") and error.count("\n") == 1
    (run / "config.yaml").unlink()
    assert layer_correlation.main([*runs, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "cannot read" in error and "config.yaml" in error and error.count("\n") == 1


def test_a_strangers_data_root_is_not_used(tiny_factory, tmp_path, monkeypatch):
    """Nothing is read or written where a run says, unless it is trusted; ours stands in for its data root."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    tiny_factory(theirs)
    tiny_factory(ours)
    monkeypatch.setenv("OODGEN_DATA", str(ours))
    images = np.zeros((20, 1, 28, 28), np.uint8)
    np.save(theirs / "prepared" / "mnist" / "test.npy", images)
    mnist = {"_target_": "oodgen.data.mnist.mnist"}
    config = {"_target_": "oodgen.data.module.OODDataModule", "root": str(theirs), "inlier": mnist, "out": {}}
    monkeypatch.setattr(layer_correlation, "read_run", lambda run: StoredRun(run, run, {"data": config}))
    before = sorted(theirs.rglob("*"))
    assert layer_correlation._images(tmp_path, None, 9, trust=False).any()
    assert sorted(theirs.rglob("*")) == before
    assert not layer_correlation._images(tmp_path, None, 9, trust=True).any()
    (ours / "link").symlink_to(theirs)
    Image.fromarray(images[0, 0]).save(theirs / "x.png")
    for place in (theirs, ours / "link", ours / ".." / "theirs", "~/theirs", "theirs"):
        config["out"] = {"a": {"b": [{"_target_": "oodgen.data.folder.folder", "root": str(place)}]}}
        with pytest.raises(UserError, match="outside of the data root"):
            layer_correlation._images(tmp_path, None, 9, trust=False)
