"""One number of a run for a sweeper: named by score, set and metric, or minus the validation bound."""

import json

import pytest

from oodgen.errors import UserError
from oodgen.runs import objective, results

NONE = {"score": None, "set": None, "metric": None}


def row(score, out, metric, value, protocol="full"):
    return results.Row("e", "f", 0, "photos", out, score, metric, value, 0.0, 1.0, protocol, 9, 9)


ROWS = [
    row("l>0", "photos", "nats", -7.0),
    *(row("l>0", out, metric, i / 8) for i, (out, metric) in enumerate([("a", "auroc"), ("b", "auroc"), ("a", "ap")])),
    row("l>0", "a", "auroc", 0.9, "balanced"),
    row("llr>k", "a", "auroc", 0.7, "oracle"),
    row("class", "photos", "accuracy", 0.8),
]


@pytest.fixture
def run(tmp_path):
    """An evaluation of a training with two validations."""
    folder, train = tmp_path / "eval" / "e" / "1", tmp_path / "train" / "f"
    folder.mkdir(parents=True)
    train.mkdir(parents=True)
    results.write(folder / "results.csv", ROWS)
    (folder / "record.json").write_text(json.dumps({"fingerprint": "f"}))
    (train / "metrics.csv").write_text(
        "step,train/bound,val/log_px,val/bound\n0,-9,,\n5,,-1,-3.5\n8,-2,,\n9,,-1,-4.25\n"
    )
    return folder


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"score": "l_0", "set": "b", "metric": "auroc"}, 0.125),
        ({"score": "l>0", "set": "a", "metric": "auroc"}, 0.0),
        ({"score": "llr_k"}, 0.7),
        ({"metric": "accuracy"}, 0.8),
        ({"score": "l_0", "metric": "nats"}, -7.0),
        ({}, 4.25),
    ],
)
def test_the_number_is_read_from_what_the_run_wrote(run, named, expected):
    assert objective.value(run, NONE | named, "last") == expected


def test_of_the_best_checkpoint_the_best_validation_counts(run):
    assert objective.value(run, NONE, "best") == 3.5


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (
            {"score": "l_1"},
            r"objective.score=l_1 is not in the results; available: l_0 \(l>0\), llr_k \(llr>k\), class$",
        ),
        ({"set": "c"}, r"objective.set=c is not in the results; available: photos, a, b$"),
        (
            {"score": "l_0", "metric": "accuracy"},
            r"objective.metric=accuracy is not in the results; available: nats, auroc, ap$",
        ),
        ({"score": "l_0", "metric": "auroc"}, r"objective.set is not set; choose one of: a, b$"),
    ],
)
def test_what_is_not_there_or_not_one_number_is_named(run, named, words):
    with pytest.raises(UserError, match=words):
        objective.value(run, NONE | named, "last")


def test_a_training_without_a_validation_bound_is_named(run):
    (run.parents[2] / "train" / "f" / "metrics.csv").write_text("step,val/critic_gap\n5,1\n")
    with pytest.raises(UserError, match=r"no validation bound .* objective\.score"):
        objective.value(run, NONE, "last")
