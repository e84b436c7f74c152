"""A run on rows from end to end, and its detector, which scales raw rows without any data at hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from oodgen.data.rows import fit_scaling
from oodgen.detector import Detector
from oodgen.errors import UserError
from oodgen.evaluation import calibration

RNG = np.random.default_rng(0)
CENTRE = RNG.normal(0, 50, 30)
DEVIATION = RNG.gamma(2, 10, 30)


def draw(count: int, shift: float = 0.0) -> np.ndarray:
    return (CENTRE + DEVIATION * (RNG.standard_normal((count, 30)) + shift)).astype(np.float32)


@pytest.fixture
def run(command, tmp_path):
    """The evaluation of a short training on rows of a user's own, whose frauds lie four deviations off."""
    root = tmp_path / "data"
    for name, split, x in (
        ("credit_fraud", "train", draw(1000)),
        ("credit_fraud", "test", draw(60)),
        ("credit_fraud_frauds", "test", draw(60, 4)),
    ):
        (root / "prepared" / name).mkdir(parents=True, exist_ok=True)
        np.save(root / "prepared" / name / f"{split}.npy", x)
    ended = command(
        *("+experiment=credit_fraud_vae", f"data.root={root}", "data.batch_size=50", "trainer.max_steps=150"),
        *("method.optimizer.lr=1e-2", "device.accelerator=cpu", "device.precision=32"),
    )
    assert ended.code == 0, ended.err
    (folder,) = (tmp_path / "runs" / "eval" / "credit_fraud_vae").iterdir()
    train = np.load(root / "prepared" / "credit_fraud" / "train.npy")
    for path in sorted(root.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    return folder, train


def test_a_run_on_rows_and_its_detector(run):
    folder, train = run
    rows = [line.split(",") for line in (folder / "results.csv").read_text().splitlines()]
    head = rows[0].index
    values = {(r[head("score")], r[head("metric")]): float(r[head("value")]) for r in rows[1:] if r[4] != r[3]}
    assert values["l>0", "auroc"] > 0.99 and values["l>0 iw", "fpr95"] < 0.05
    assert {"auroc", "auprc", "auprc_in", "fpr95"} <= {metric for _, metric in values}

    detector = Detector.load(folder, "l>0 iw")
    kept = detector.conversion.scaling
    whole = fit_scaling("minmax", train)
    # fitted on nine tenths of the train split: its range is no wider than the whole one's
    assert kept is not None and kept.shift != whole.shift
    assert all(a >= b for a, b in zip(kept.shift, whole.shift, strict=True))
    assert all(a <= b for a, b in zip(kept.width, whole.width, strict=True))

    x = draw(40)
    plain = replace(detector, conversion=detector.conversion._replace(scaling=None))
    assert torch.equal(detector.score(x), plain.score(kept(x)))
    assert torch.equal(detector.score(x[3]), detector.score(x[3:4]))
    assert detector.predict(draw(200), 0.1).float().mean() < 0.3 and detector.predict(draw(20, 4)).all()
    with pytest.raises(UserError, match=r"needs torch\.float32 examples"):
        detector.score(x.astype(float))


def test_a_model_of_other_rows_is_refused_without_a_word_of_images(command):
    line = command("+experiment=credit_fraud_vae", "model.shape=[29]", "smoke=true", "device.accelerator=cpu").error
    assert line.endswith("credit_fraud has [30]; choose another model, or model.shape=[30]")


def test_a_calibration_older_than_scaling_still_loads(run):
    folder, _ = run
    path = folder / "calibration.safetensors"
    with safe_open(path, "pt") as file:
        about, evidence = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    about["conversion"] = json.dumps(json.loads(about["conversion"])[:3])
    save_file(evidence, path, about)
    assert calibration.read(folder).conversion == ((30,), False, None, None)
