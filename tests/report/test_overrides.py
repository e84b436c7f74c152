"""What a command asked for: which overrides make another experiment, and which tell nobody anything."""

import pytest

from oodgen.report.overrides import requested_overrides


def record(*overrides):
    return {"overrides": ["+experiment=e", *overrides]}


@pytest.mark.parametrize(
    "override",
    [
        *("seed=3", "+sweep=bpvae_ratio", "name=mine", "notes=[x]", "runs=/tmp/r", "retrain=true", "smoke=true"),
        *("data.root=/data", "device.threads=1", "device.compile=true", "logger=wandb", "+logger@logger.w=wandb"),
        *("~logger", "logger.wandb.name=x", "hydra/launcher=joblib", "hydra.verbose=true", "checkpoint=last"),
        *("trainer.max_epochs=20", "snapshots=[1]"),
    ],
)
def test_what_makes_no_other_experiment_is_not_named(override):
    assert requested_overrides([record(override)]) == ()


@pytest.mark.parametrize(
    "override",
    [
        *("method.sigma_s=5", "trainer.max_steps=9", "checkpoint=best", "data.seed=1", "method.seed=1", "eval_seed=2"),
        *("dataset@data.auxiliary.simple=kmnist", "~data.out.hflip", "data.limit=100", "named=x"),
        "device.precision=32",
    ],
)
def test_what_makes_another_experiment_is_named(override):
    assert requested_overrides([record(override, "seed=1")]) == (override,)


def test_runs_share_what_all_of_them_asked_for_in_any_order_and_with_or_without_a_plus():
    assert requested_overrides([record("b=2", "+a=1", "c=3"), record("++a=1", "b=2")]) == ("a=1", "b=2")


def test_where_a_record_names_no_overrides_nothing_is_known():
    assert requested_overrides([record("b=2"), {}]) is None and requested_overrides([]) is None
    assert requested_overrides([{"overrides": []}]) == ()


def test_folders_of_the_machine_are_not_named():
    assert requested_overrides([record("data.inlier.root=/home/me/pictures")]) == ("data.inlier.root=pictures",)
