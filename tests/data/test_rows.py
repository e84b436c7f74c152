"""Scaling of rows: fitted on what is trained on and nothing else, applied alike in every role, kept with a run."""

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from oodgen.data.catalog import Dataset, Read
from oodgen.data.module import OODDataModule
from oodgen.data.rows import fit_scaling
from oodgen.errors import UserError
from oodgen.runs import record
from oodgen.runs.locations import config_dir

TRAIN = np.random.default_rng(0).normal((3, -50, 7), (1, 20, 0), (200, 3)).astype(np.float32)  # the last is constant
TEST = np.random.default_rng(1).normal((3, -50, 7), (1, 20, 0), (30, 3)).astype(np.float32)
OUT = np.random.default_rng(2).normal((9, 400, 8), (1, 20, 1), (40, 3)).astype(np.float32)


def held(name: str, train: np.ndarray | None, test: np.ndarray) -> Dataset:
    def read(root: Path, split: str) -> Read:
        if (x := train if split == "train" else test) is None:
            raise FileNotFoundError(2, "No such file", str(root / name))
        return x.copy(), None

    return Dataset(name, (3,), {}, "", "", read)


@pytest.fixture
def make(tmp_path):
    made = []

    def module(train=TRAIN, test=TEST, out=OUT, **options) -> OODDataModule:
        made.append(tmp_path / str(len(made)))  # prepared files of its own
        sets = {"out": held("out", None, out)}
        return OODDataModule(held("own", train, test), sets, root=made[-1], **{"batch_size": 16} | options)

    return module


def parts(data: OODDataModule) -> dict[str, np.ndarray]:
    sets = data.test_sets()
    data.setup()
    assert data.train_x is not None
    return {
        "train": data.train_x[data.train_rows],
        "validation": data.held_out["validation"].x,
        "calibration": data.held_out["calibration"].x,
        "test": sets["own"].x,
        "out": sets["out"].x,
    }


def test_training_rows_fill_the_range_and_the_others_go_by_it(make):
    plain, scaled = parts(make()), parts(make(scale="minmax"))
    low, high = plain["train"].min(0), plain["train"].max(0)
    np.testing.assert_array_equal(scaled["train"].min(0), [0, 0, 0])
    np.testing.assert_array_equal(scaled["train"].max(0), [1, 1, 0])
    for name, x in scaled.items():
        assert x.dtype == np.float32
        np.testing.assert_allclose(x[:, :2], ((plain[name] - low)[:, :2] / (high - low)[:2]), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(x[:, 2], plain[name][:, 2] - 7, atol=1e-6)
    assert scaled["out"].max() > 1.5


def test_standard_rows_have_mean_zero_and_deviation_one(make):
    scaled = parts(make(scale="standard"))
    np.testing.assert_allclose(scaled["train"].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled["train"].std(0), [1, 1, 0], atol=1e-5)


@pytest.mark.parametrize("scale", ["minmax", "standard"])
def test_no_row_that_is_not_trained_on_moves_the_scale(make, scale):
    data = make(scale=scale)
    data.setup()
    unseen = np.setdiff1d(np.arange(len(TRAIN)), data.train_rows)
    far = TRAIN.copy()
    far[unseen] = 1e6
    other = make(far, TEST * 1e6, OUT * 1e6, scale=scale)
    other.setup()
    assert other.scaling == data.scaling
    moved = TRAIN.copy()
    moved[data.train_rows[0]] = 1e6
    other = make(moved, scale=scale)
    other.setup()
    assert other.scaling != data.scaling


def test_the_leaky_scale_sees_everything_and_says_so(make):
    data = make(scale="minmax_leaky", limit=3)
    everything = np.concatenate([TRAIN, TEST, OUT])
    data.setup()
    assert data.scaling == fit_scaling("minmax", everything)
    assert data.sha256.count("+") == 2, "what was fitted on counts as trained on"
    far = OUT.copy()
    far[0] = 1e6
    other = make(out=far, scale="minmax_leaky")
    other.setup()
    assert other.scaling != data.scaling and other.sha256 != data.sha256
    lower = held("lower", OUT - 1000, TEST)
    for option in ({"negative": lower}, {"auxiliary": {"lower": lower}}):
        more = make(scale="minmax_leaky", **option)
        more.setup()
        assert more.scaling == fit_scaling("minmax", np.concatenate([everything, OUT - 1000]))
    honest = make(scale="minmax")
    honest.setup()
    assert honest.sha256 == data.sha256.split("+")[0]


def test_streams_are_scaled_too(make):
    more = held("more", OUT, TEST)
    data = make(scale="minmax", negative=more, auxiliary={"again": held("again", OUT, TEST)}, out=TEST[:9] + 1)
    batch = data.train_dataloader().batch(0)
    assert data.scaling is not None
    known = {row.tobytes() for row in data.scaling(OUT)}
    assert all(row.numpy().tobytes() in known for row in (*batch.negative, *batch.auxiliary[0]))


@pytest.mark.parametrize("scale", [None, "minmax"])
@pytest.mark.parametrize("role", ["negative", "auxiliary"])
def test_what_was_trained_with_is_not_tested_with(make, scale, role):
    half = held("half", OUT[:20], OUT[20:])
    options = {"negative": half} if role == "negative" else {"auxiliary": {"half": half}}
    with pytest.raises(UserError, match="20 of the 40 test rows of out are also training rows of half"):
        make(scale=scale, **options).test_sets()
    assert len(make(out=OUT[20:], scale=scale, **options).test_sets()["out"].x) == 20


def test_images_are_not_scaled(tmp_path):
    images = Dataset("images", (1, 4, 4), {}, "", "", lambda *_: (TRAIN, None))
    with pytest.raises(UserError, match=r"data\.scale='minmax' scales rows, not images"):
        OODDataModule(images, {}, root=tmp_path, scale="minmax")


def test_an_absent_out_set_may_be_skipped_by_the_leaky_scale_too(make):
    data = make(scale="minmax_leaky", missing="skip")
    data.out["gone"] = held("gone", None, None)  # type: ignore[arg-type]
    assert list(data.test_sets()) == ["own", "out"] and "gone" in data.skipped


def test_smoke_makes_rows(tmp_path):
    data = OODDataModule(held("own", TRAIN, TEST), {}, root=tmp_path, batch_size=4, scale="minmax", smoke=True)
    batch = data.train_dataloader().batch(0)
    assert batch.x.shape == (4, 3) and batch.x.is_floating_point() and batch.x.std() > 0.1
    assert data.test_sets()["own"].origin == "random rows (smoke)" and data.shape == (3,)


def config(*overrides: str) -> dict:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        composed = compose("run", ["+experiment=credit_fraud_vae", "runs=r", *overrides])
        return OmegaConf.to_container(composed, resolve=True)  # type: ignore[return-value]


def test_the_scale_shapes_the_weights():
    assert record.fingerprint(config()) == record.fingerprint(config("data.scale=minmax"))
    assert len({record.fingerprint(config(f"data.scale={way}")) for way in ("null", "standard", "minmax_leaky")}) == 3
