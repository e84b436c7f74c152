"""The sets of an experiment: carved alike for every seed, prepared alike in every role, refused if they do not fit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from oodgen.data.catalog import Dataset, Read, Transform
from oodgen.data.module import OODDataModule
from oodgen.data.transforms import hflip
from oodgen.errors import UserError


def _set(name: str = "own", shape: tuple[int, ...] = (1, 6, 6), count: int = 200, seed: int = 0) -> Dataset:
    def read(root: Path, split: str) -> Read:
        n = count if split == "train" else 30
        rng = np.random.default_rng([seed, n])
        return rng.integers(0, 256, (n, *shape), np.uint8), np.arange(n)

    return Dataset(name, shape, {}, "", "", read)


def _absent(name: str = "absent") -> Dataset:
    def read(root: Path, split: str) -> Read:
        raise FileNotFoundError(2, "No such file", str(root / "raw" / split))

    return Dataset(name, (1, 6, 6), {}, "", "", read, fetch=lambda root: None)


@pytest.fixture
def make(tmp_path):
    def module(inlier: Dataset | None = None, out: dict | None = None, **options) -> OODDataModule:
        options = {"batch_size": 16, "validation": 0.1, "calibration": 0.1} | options
        return OODDataModule(inlier or _set(), out or {}, root=tmp_path, **options)

    return module


def test_parts_of_train_are_disjoint_and_whole(make):
    data = make()
    data.setup()
    assert data.train_x is not None
    parts = [data.train_x[data.train_rows], data.held_out["validation"].x, data.held_out["calibration"].x]
    assert [len(part) for part in parts] == [160, 20, 20]
    seen = np.sort(np.concatenate([part.reshape(len(part), -1) for part in parts]), axis=0)
    assert np.array_equal(seen, np.sort(np.asarray(data.train_x).reshape(200, -1), axis=0))
    assert len(np.unique(np.concatenate([part.reshape(len(part), -1) for part in parts]), axis=0)) == 200


def test_carving_does_not_depend_on_the_seed_but_batches_do(make):
    a, b = make(seed=1), make(seed=2)
    for data in (a, b):
        data.setup()
    assert np.array_equal(a.train_rows, b.train_rows)
    assert not np.array_equal(a.train_dataloader().batch(0).index, b.train_dataloader().batch(0).index)


def test_labels_go_with_their_examples(make):
    data = make()
    batch = data.train_dataloader().batch(3)
    assert data.train_x is not None
    assert np.array_equal(batch.x.numpy(), data.train_x[batch.y.numpy()])
    for held in (*data.val_dataloader(), data.training_examples()):
        assert np.array_equal(np.asarray(held.x), data.train_x[np.asarray(held.y)])
    assert len(data.training_examples().x) == 160


def test_mutation_reaches_the_training_batches_alone(make):
    plain, mutated = make(), make(mutation=0.5)
    a, b = (data.train_dataloader().batch(3) for data in (plain, mutated))
    assert torch.equal(a.index, b.index) and 0.3 < (a.x != b.x).float().mean() < 0.7
    assert np.array_equal(plain.held_out["validation"].x, mutated.held_out["validation"].x)
    assert np.array_equal(plain.test_sets()["own"].x, mutated.test_sets()["own"].x)
    pair = make(mutation=[0, 0.5], members=2, seed=1).train_dataloader().batch(3)
    for m, rate in enumerate((None, 0.5)):
        assert torch.equal(pair.x[m], make(mutation=rate, seed=1000 + m).train_dataloader().batch(3).x)


def test_test_sets_begin_with_the_inlier(make):
    data = make(out={"other": _set("other", seed=1), "hflip": hflip()})
    sets = data.test_sets()
    assert list(sets) == ["own", "other", "hflip"]
    assert np.array_equal(sets["hflip"].x, sets["own"].x[..., ::-1])
    assert not np.array_equal(sets["other"].x, sets["own"].x)


def test_labels_are_limited_with_their_examples(make):
    whole, part = (make(limit=limit).test_sets()["own"] for limit in (None, 7))
    assert len(part.y) == 7 and np.array_equal(whole.x[part.y], part.x)  # of which labels are the numbers


def test_a_limit_takes_a_seeded_part_in_order(make):
    whole, part = (make(limit=limit).test_sets()["own"].x for limit in (None, 7))
    places = [int(np.flatnonzero((whole == x).all((1, 2, 3)))[0]) for x in part]
    assert len(part) == 7 and places == sorted(places) and len(make(limit=99).test_sets()["own"].x) == 30


def test_grey_and_size_reach_every_role(make):
    colour = _set("colour", (3, 8, 8))
    options = {"grey": True, "size": [6, 6]}
    data = make(_set(), {"colour": colour}, auxiliary={"a": colour}, negative=colour, **options)
    assert data.test_sets()["colour"].x.shape == (30, 1, 6, 6)
    batch = data.train_dataloader().batch(0)
    assert batch.auxiliary[0].shape == batch.negative.shape == batch.x.shape == (16, 1, 6, 6)


def test_what_is_trained_with_is_another_set_each_time(make):
    for options in ({"negative": _set()}, {"auxiliary": {"a": _set()}}, {"auxiliary": {n: _set("b") for n in "ab"}}):
        with pytest.raises(UserError, match=r"data\.\S+ and data\.\S+ are both (own|b);"):
            make(_set(), **options)
    with pytest.raises(UserError, match=r"data\.negative=hflip is a test set only"):
        make(_set(), negative=Transform("hflip", lambda x, _: x))


def test_grey_is_the_mean_of_the_channels(make):
    colour = _set("colour", (3, 6, 6))
    x, grey = (make(colour, grey=grey).test_sets()["colour"].x for grey in (False, True))
    assert np.abs(grey[:, 0].astype(float) - x.mean(1)).max() <= 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 161}, r"set data\.batch_size=160"),
        ({"mutation": [0.1, 0.2]}, r"data\.mutation=\[0\.1, 0\.2\] must be one rate, or one for each of 1 member"),
        ({"mutation": [0.2], "members": 2}, "one for each of 2 members"),
        ({"mutation": 0.2, "inlier": _set("rows", (5,))}, "replaces pixels of images, but rows has rows"),
        ({"validation": 0.5, "calibration": 0.5}, "leave nothing to train on"),
        ({"out": {"own": _set()}}, "the inlier set itself"),
        ({"inlier": _set(count=3), "batch_size": 1}, None),
        ({"inlier": _set(count=2), "batch_size": 1}, "too few for validation"),
        ({"out": {"big": _set("big", (1, 8, 8))}}, r"big has .* 1x8x8, own of 1x6x6; .*data\.size"),
        ({"out": {"absent": _absent()}}, r"absent: no test split .*raw/test is missing; run: .* fetch absent"),
        ({"inlier": _absent(), "missing": "skip"}, "absent: no train split"),
    ],
)
def test_what_does_not_fit_is_refused(make, options, words):
    if words is None:
        make(**options).setup()
        return
    with pytest.raises(UserError, match=words):
        data = make(**options)
        data.setup()
        data.test_sets()


def test_an_absent_out_set_may_be_skipped_but_not_a_damaged_one(make, tmp_path):
    data = make(out={"absent": _absent(), "other": _set("other")}, missing="skip")
    assert list(data.test_sets()) == ["own", "other"]
    assert "is missing" in data.skipped["absent"]
    path = tmp_path / "prepared" / "other" / "test.npy"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"other/test\.npy cannot be read"):
        make(out={"other": _set("other")}, missing="skip").test_sets()


def test_smoke_needs_no_data(tmp_path):
    data = OODDataModule(_absent(), {"b": _absent("b")}, root=tmp_path / "nothing", batch_size=4, smoke=True)
    data.setup()
    sets = data.test_sets()
    assert sets["b"].origin.startswith("random") and not np.array_equal(sets["b"].x, sets["absent"].x)
    assert not (tmp_path / "nothing").exists()


def test_transforms_are_of_the_test_split_after_preprocessing(make):
    seen = []

    def note(x: np.ndarray, seed: int) -> np.ndarray:
        seen.append((x.shape, seed))
        return x

    make(_set("colour", (3, 8, 8)), {"note": Transform("note", note)}, grey=True, size=[4, 4], limit=5).test_sets()
    assert seen == [((5, 1, 4, 4), 0)]
