"""An ensemble assembled from finished runs is the one trained together, and refuses what cannot be a member."""

import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from oodgen.detector import Detector
from oodgen.errors import UserError
from oodgen.training import assembly

SINGLE = ("+experiment=credit_fraud_vae", "name=single")
TOGETHER = ("+experiment=credit_fraud_vae_ensemble", "method.size=2", "score@scores=ensemble")
OPTIONS = ("data.batch_size=50", "trainer.max_steps=25", "device.accelerator=cpu", "device.precision=32")


@pytest.fixture
def run(command, tmp_path):
    """Runs a command on rows of a user's own; the folders of its training and of its evaluation."""
    rng = np.random.default_rng(0)
    for name, split, count, shift in (
        ("credit_fraud", "train", 400, 0),
        ("credit_fraud", "test", 30, 0),
        ("credit_fraud_frauds", "test", 30, 2),
    ):
        folder = tmp_path / "data" / "prepared" / name
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{split}.npy", (rng.standard_normal((count, 30)) + shift).astype(np.float32))

    def call(*arguments):
        ended = command(*arguments, *OPTIONS, f"data.root={tmp_path / 'data'}")
        assert ended.code == 0, ended.err
        evaluation = ended.out.splitlines()[-1].removesuffix("/report.html")
        record = json.loads((tmp_path / evaluation / "record.json").read_text())
        return tmp_path / "runs" / "train" / record["fingerprint"], tmp_path / evaluation

    call.fails = lambda *arguments: command(*arguments, *OPTIONS, f"data.root={tmp_path / 'data'}").error
    return call


def weights(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def test_assembled_is_trained_together(run):
    members = [run(*SINGLE, "seed=0")[0]]
    apart, third = run(*TOGETHER, "method.how=apart")
    made = {path: path.stat().st_mtime_ns for path in apart.parent.glob("*/checkpoints/last.ckpt")}
    assert len(made) == 3  # the second member's own is among them, and its command finds it
    members.append(run(*SINGLE, "seed=1")[0])
    assert all(path.stat().st_mtime_ns == then for path, then in made.items())
    assert {path.parts[-3] for path in made} == {apart.name, *(member.name for member in members)}
    trained, one = run(*TOGETHER)
    for m, member in enumerate(members):
        for key, value in weights(member).items():
            assert torch.equal(weights(trained)[key.replace("model.", f"model.members.{m}.", 1)], value), key

    inputs = f"method.inputs=[{','.join(member.name for member in members)}]"
    assembled, other = run(*TOGETHER, inputs)
    assert assembled != trained
    assert {path.stem for path in (assembled / "checkpoints").iterdir()} == {"last", "best"}
    mine, theirs = weights(assembled), weights(trained)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert all(torch.equal(weights(apart)[key], theirs[key]) for key in theirs)
    for scores in sorted((one / "scores").iterdir()):
        assert scores.read_text() == (other / "scores" / scores.name).read_text()
    rows = [
        (folder / "results.csv").read_text().replace(run.name, "")
        for folder, run in ((one, trained), (other, assembled))
    ]
    assert rows[0] == rows[1] and ",waic,auroc," in rows[0]
    raw = np.load(one.parents[3] / "data" / "prepared" / "credit_fraud_frauds" / "test.npy")
    detectors = [Detector.load(folder) for folder in (one, other)]
    assert detectors[0].name == "evidence"
    assert torch.equal(*(detector.score(raw) for detector in detectors))
    facts = json.loads((other / "record.json").read_text())
    assert facts["training"]["how"] == "assembled" and list(facts["training"]["inputs"]) == [m.name for m in members]
    assert json.loads((one / "record.json").read_text())["training"]["how"] == "sequential"
    training = json.loads((third / "record.json").read_text())["training"]
    assert (training["how"], training["steps"], training["members"]) == ("apart", 25, 2)
    assert list(training["inputs"]) == [m.name for m in members]
    assert facts["model"]["parameters"] == 2 * sum(value.numel() for value in weights(members[0]).values())

    # the same command on another evaluation finds it; with a member trained again it does not
    run(*TOGETHER, inputs, "eval_seed=1")
    made = members[1] / "provenance.json"
    made.write_text(json.dumps(json.loads(made.read_text()) | {"date": "later"}))
    line = run.fails(*TOGETHER, inputs, "eval_seed=2")
    assert f"{members[1].name} was trained again" in line and "retrain=true" in line


def test_what_cannot_be_a_member(run):
    good, _ = run(*SINGLE)
    other = good.parent / "fedcba987654"
    made = json.loads((good / "provenance.json").read_text())

    def refused(name=other.name):
        line = run.fails(*TOGETHER, f"method.inputs=[{good.name},{name}]")
        assert name in line
        return line

    assert "there is no training" in refused("0123456789ab")
    for state, why in (("diverged", "the bound is not finite"), ("running", None)):
        other.mkdir(exist_ok=True)
        (other / "state.json").write_text(json.dumps({"state": state, "why": why}))
        assert f"is not finished ({state}" in refused()
    (other / "state.json").write_text(json.dumps({"state": "done", "why": None}))
    assert "cannot read" in refused()
    for place, value, now in (("model.encoder", 33, 32), ("data.validation", 0.1, 0.05)):
        config = OmegaConf.load(good / "config.yaml")
        OmegaConf.update(config, place, value)
        OmegaConf.save(config, other / "config.yaml")
        assert f"has {place}={value}, this ensemble {now}" in refused()
    OmegaConf.save(OmegaConf.load(good / "config.yaml"), other / "config.yaml")
    (other / "provenance.json").write_text(json.dumps(made | {"data": "another"}))
    assert "was trained on other data (another, now " in refused()
    (other / "provenance.json").write_text(json.dumps(made))
    assert "no checkpoint 'last'" in refused()


def test_a_member_that_diverged_apart_is_named_and_it_alone_starts_over(run):
    asked = (*TOGETHER, "method.how=apart")
    apart, evaluation = run(*asked)
    first, second = json.loads((evaluation / "record.json").read_text())["training"]["inputs"]
    (apart.parent / second / "state.json").write_text(json.dumps({"state": "diverged", "why": "the bound fell"}))
    (apart / "state.json").write_text(json.dumps({"state": "failed", "why": "interrupted"}))
    line = run.fails(*asked, "eval_seed=1")
    assert "member 2: the bound fell (found in " in line and second in line
    last = [apart.parent / name / "checkpoints" / "last.ckpt" for name in (first, second)]
    then = [path.stat().st_mtime_ns for path in last]
    run(*asked, "eval_seed=1", "retrain=true")
    now = [path.stat().st_mtime_ns for path in last]
    assert now[0] == then[0] and now[1] > then[1]
    run(*asked, "eval_seed=1", "retrain=true")
    assert all(path.stat().st_mtime_ns > time for path, time in zip(last, now, strict=True)), "none diverged: all"


def test_a_member_was_mutated_as_the_ensemble_says_of_it(tmp_path):
    for name, content in (
        ("state.json", {"state": "done", "why": None}),
        ("provenance.json", {"data": "d", "date": "today"}),
        ("config.yaml", {"model": {}, "data": {"mutation": 0.2}}),
    ):
        (tmp_path / name).write_text(json.dumps(content))
    config = {"model": {}, "data": {"mutation": [0, 0.2]}}
    assert assembly._training_date(tmp_path, config, "d", 0.2) == "today"
    with pytest.raises(UserError, match=r"has data\.mutation=0\.2, this ensemble 0; members must have equal options"):
        assembly._training_date(tmp_path, config, "d", 0)
