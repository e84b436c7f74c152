"""A run's directory is named by what made it, says how it stands, and belongs to one process at a time."""

import copy
import json
import subprocess
import sys
import threading
import time
from functools import cache

import pytest
import yaml
from filelock import FileLock
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from oodgen.errors import Diverged, UserError
from oodgen.runs import record
from oodgen.runs.locations import config_dir

GROUPS = ("logger", "model", "callbacks")
PRINT = """
import sys
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from oodgen.runs import record
from oodgen.runs.locations import config_dir
with initialize_config_dir(str(config_dir()), version_base="1.3"):
    config = OmegaConf.to_container(compose("run", ["+experiment=quickstart", "runs=r"]), resolve=True)
print(record.fingerprint(config), record.evaluation_folder(config))
"""


@cache
def _composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("run", ["+experiment=quickstart", "runs=r", *overrides])


def _config(*overrides: str) -> dict:
    """The resolved config; values are set in the config that was composed before, which takes a tenth of the time."""
    values = [o for o in overrides if o[0] not in "+~" and "@" not in o and o.split("=")[0] not in GROUPS]
    composed = copy.deepcopy(_composed(*(o for o in overrides if o not in values)))
    for key, value in (o.split("=") for o in values):
        OmegaConf.update(composed, key, yaml.safe_load(value))
    return OmegaConf.to_container(composed, resolve=True)


def test_the_training_is_the_same_however_it_is_asked():
    overrides = (
        "logger=wandb data.root=elsewhere runs=elsewhere eval_seed=1 checkpoint=best snapshots=[1] data.limit=10 "
        "data.missing=skip name=other ~data.out.digits +dataset@data.out.mnist=mnist ~scores.llr_ada "
        "+probe@probes.mode=bounds_mode probes.bounds.samples=3 retrain=true"
    )
    assert record.fingerprint(_config(*overrides.split())) == record.fingerprint(_config())


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "data.seed=1",
        "method.seed=1",
        "method.optimizer.lr=2e-3",
        "device.precision=bf16",
        "data.batch_size=64",
        "data.grey=true",
        "data.size=[14,14]",
        "data.validation=0.1",
        "dataset@data.inlier=digits",
        "+dataset@data.auxiliary.glyphs=glyphs",
        "model=hvae_tiny",
        "trainer.max_epochs=7",
        "callbacks=ema",
        "method.free_bits.nats=1",
    ],
)
def test_the_training_is_another(override):
    assert record.fingerprint(_config(override)) != record.fingerprint(_config())


def test_the_evaluation_is_the_same():
    changed = _config("logger=wandb", "retrain=true", "data.root=elsewhere", "objective.score=llr_1")
    assert record.evaluation_folder(changed) == record.evaluation_folder(_config())


@pytest.mark.parametrize(
    "override", ["eval_seed=1", "~data.out.digits", "~scores.llr_ada", "seed=1", "checkpoint=best"]
)
def test_the_evaluation_is_another(override):
    assert record.evaluation_folder(_config(override)) != record.evaluation_folder(_config())


def test_names_are_the_same_in_another_process():
    found = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, text=True, check=True).stdout.split()
    config = _config()
    assert found == [record.fingerprint(config), record.evaluation_folder(config)]
    assert found[1].startswith("r/eval/quickstart/")


def test_order_of_keys_does_not_count_and_types_do():
    config = _config()
    turned = dict(reversed(list(copy.deepcopy(config).items())))
    assert record.fingerprint(turned) == record.fingerprint(config)
    assert record.digest({"a": 1}) != record.digest({"a": "1"})


def test_a_smoke_run_has_a_place_of_its_own():
    assert record.evaluation_folder(_config("smoke=true")).startswith("r/smoke/eval/quickstart/")


def test_state_follows_what_happens(tmp_path):
    assert record.read_state(tmp_path)["state"] == "new"
    with record.recorded_state(tmp_path):
        assert record.read_state(tmp_path)["state"] == "running"
    assert record.read_state(tmp_path) == {"state": "done", "why": None}


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("no"), {"state": "failed", "why": "no"}),
        (ValueError(), {"state": "failed", "why": "ValueError"}),
        (Diverged("far"), {"state": "diverged", "why": "far"}),
        (KeyboardInterrupt(), {"state": "failed", "why": "interrupted"}),
        (SystemExit(143), {"state": "failed", "why": "interrupted"}),
    ],
)
def test_state_says_why(tmp_path, error, state):
    with pytest.raises(type(error)), record.recorded_state(tmp_path):
        raise error
    assert record.read_state(tmp_path) == state


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": "done"}', '{"state": [], "why": null}', "null"])
def test_a_damaged_state_is_named(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(UserError, match=r"state\.json is damaged; delete it"):
        record.read_state(tmp_path)


def test_a_held_directory_is_refused_or_waited_for(tmp_path, capsys):
    taken = threading.Event()

    def hold() -> None:
        with FileLock(tmp_path / ".lock"):
            taken.set()
            time.sleep(1)

    other = threading.Thread(target=hold)
    other.start()
    taken.wait()
    with pytest.raises(UserError, match="in use by another process"), record.locked(tmp_path, wait=False):
        raise AssertionError
    with record.locked(tmp_path, wait=True):
        assert "waiting for another process" in capsys.readouterr().err
    other.join()
    with record.locked(tmp_path, wait=False):
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["checkpoints", "metrics.csv", "."])
def test_a_link_in_a_run_is_not_followed(tmp_path, name):
    """`retrain=true` would delete what is behind it, and a curve would be appended to it."""
    (tmp_path / "outside").mkdir()
    folder = tmp_path / "run"
    if name != ".":
        folder.mkdir()
    (folder / name).symlink_to(tmp_path / "outside")
    with (
        pytest.raises(UserError, match="is a link, so that a run would write or delete elsewhere"),
        record.locked(folder, wait=False),
    ):
        pass
    assert not list((tmp_path / "outside").iterdir())


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot write in .*file/run"),
        record.locked(tmp_path / "file" / "run", wait=True),
    ):
        raise AssertionError


def test_provenance_is_plain():
    made = record.provenance()
    assert json.loads(json.dumps(made)) == made
    assert made["versions"]["torch"] and made["peak_memory_mb"] > 0
