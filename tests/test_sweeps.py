"""A grid of cells: a failed one is recorded and named, the others finish, and nothing is done twice."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins

from oodgen import experiment, run
from oodgen.errors import UserError
from oodgen.runs.locations import config_dir
from oodgen.training import device

FAST = ["smoke=true", "model=hvae_tiny", "+experiment=quickstart", "device.accelerator=cpu"]
FAST += [f"~data.out.{name}" for name in ("glyphs", "uniform_noise", "gaussian_noise", "hflip", "vflip")]


def _states(runs: Path) -> list[str]:
    return sorted(json.loads(path.read_text())["state"] for path in runs.glob("smoke/eval/*/*/state.json"))


def _trained(runs: Path) -> dict[str, int]:
    paths = runs.glob("smoke/train/*/checkpoints/last.ckpt")
    return {path.parts[-3]: path.stat().st_mtime_ns for path in paths}


def test_a_failed_cell_is_named_and_the_others_finish(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = ["-m", *FAST, "seed=0,1", "method.decay=constant,crooked"]
    ended = command(*grid)
    assert ended.code == 2
    assert ended.err.splitlines()[-1] == (
        "oodgen: 2 of 4 cells failed: seed=0 method.decay=crooked; seed=1 method.decay=crooked"
    )
    assert ended.err.count("failed: method.decay='crooked' is not") == 2
    assert "Traceback" not in ended.err and "Error executing job" not in ended.err
    assert _states(tmp_path / "runs") == ["done", "done", "failed", "failed"]
    trained = _trained(tmp_path / "runs")
    again = command(*grid)
    assert (again.code, again.err.count("found finished"), again.err.count("scored")) == (2, 2, 0)
    assert _trained(tmp_path / "runs") == trained
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_a_cell_without_a_name_is_recorded_and_the_others_run(command, tmp_path):
    ended = command("-m", *FAST, "name=..,${nope},ok")
    assert ended.code == 2 and "2 of 3 cells failed: name=..; name=$" in ended.error
    refused = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("runs/sweeps/*/refused/*/state.json"))]
    assert [state["why"] for state in refused] == [
        "name='..' is not a single name or a whole number",
        "name: Interpolation key 'nope' not found; correct it",
    ]
    assert _states(tmp_path / "runs") == ["done"]


def test_cells_of_one_training_share_it(command, tmp_path):
    ended = command("-m", *FAST, "name=one,two", "eval_seed=0,1")
    assert ended.code == 0, ended.err
    assert _states(tmp_path / "runs") == ["done"] * 4
    assert len(_trained(tmp_path / "runs")) == 1
    assert ended.err.count("found trained") == 3
    trained = _trained(tmp_path / "runs")
    # another out set: nothing is trained, and what was asked before is read from disk
    asked = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    more = command(*FAST, "name=one", "+dataset@data.out.kmnist=kmnist")
    assert more.code == 0 and _trained(tmp_path / "runs") == trained
    assert all(path.stat().st_mtime_ns == then for path, then in asked.items())
    new = {path.name.rsplit("-", 1)[0] for path in (tmp_path / "runs").rglob("evidence/*.safetensors")} - {
        path.name.rsplit("-", 1)[0] for path in asked
    }
    assert new == {"bounds-kmnist", "path-kmnist", "image-kmnist"}


def test_a_sweeper_is_told_a_number_of_each_cell(command, tmp_path, monkeypatch):
    launcher = Plugins.instance().class_name_to_class["hydra._internal.core_plugins.basic_launcher.BasicLauncher"]
    told, launch = [], launcher.launch

    def recorded(self, *arguments, **options):
        returns = launch(self, *arguments, **options)
        told.extend(cell.return_value for cell in returns)
        return returns

    monkeypatch.setattr(launcher, "launch", recorded)
    named = ["objective.score=llr_1", "objective.metric=auroc", "objective.set=digits"]
    for _ in ("made", "found finished"):
        assert command("-m", *FAST, *named, "method.decay=constant,crooked").code == 2
    (rows,) = {path.read_text() for path in (tmp_path / "runs").glob("smoke/eval/*/*/results.csv")}
    value = next(float(row.split(",")[7]) for row in rows.splitlines() if ",digits,llr>1,auroc," in row)
    assert told == [value, math.inf, value, math.inf]
    ended = command(*FAST, "method.decay=constant", *named[:2], "objective.set=nope")
    assert ended.code == 2 and "objective.set=nope is not in the results; available: digits" in ended.error
    assert _states(tmp_path / "runs") == ["done", "failed"], "another objective is no other evaluation"
    ended = command(*FAST, "seed=7", "objective.score=lr_1")
    assert ended.code == 2 and "objective.score=lr_1 is not in the results; available: l_0 (l>0)," in ended.error
    assert len(_trained(tmp_path / "runs")) == 1, "refused before the training"


def test_optuna_takes_three_trials_and_goes_on_after_a_failed_one(command, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    grid = ["-m", *FAST, "hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1", "hydra.sweeper.direction=maximize"]
    named = ["objective.score=kl_1", "objective.metric=auroc", "objective.set=digits", "hydra/sweeper/sampler=grid"]
    ended = command(*grid, *named, "hydra.sweeper.n_trials=3", "method.optimizer.lr=choice(0.001,0.01,-1)")
    assert ended.code == 2 and "1 of 3 cells failed: method.optimizer.lr=-1" in ended.error
    (found,) = (tmp_path / "runs" / "sweeps").glob("*/optimization_results.yaml")
    best = yaml.safe_load(found.read_text())
    assert best["best_params"]["method.optimizer.lr"] > 0 and 0 <= best["best_value"] <= 1
    ended = command(*grid, "hydra.sweeper.n_trials=1", "method.optimizer.lr=choice(0.001,0.001)")
    assert ended.code == 2 and "no validation bound" in ended.err, "two steps reach no validation"


def test_a_sweeper_learns_before_the_training_that_a_critic_has_no_bound(tmp_path):
    words = ["+experiment=cifar10_wgan", "smoke=true", "device.accelerator=cpu", f"runs={tmp_path}"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("run", words)
    with pytest.raises(UserError, match="no validation bound for the sweeper; set objective"):
        experiment.run(config, tmp_path / "eval", optimised=True)
    assert [path.name for path in tmp_path.iterdir()] == ["eval"]


@pytest.mark.parametrize("look", ["--cfg job --package data.auxiliary", "--help"])
def test_a_sweep_is_shown_before_it_is_run(command, tmp_path, look):
    ended = command("+sweep=bpvae_figure5", "seed=0,1", *look.split())
    assert ended.code == 0, ended.err
    assert ended.out.startswith("# 8 cells")
    assert "\n#   +experiment=cifar10_bpvae_figure5 dataset@data.auxiliary.simple=mnist seed=1\n" in ended.out
    words = {"--cfg": "fashion_mnist\n", "--help": "Choices"}
    assert words[look.split()[0]] in ended.out.partition("\n\n")[2]
    assert not (tmp_path / "runs").exists()


def test_a_grid_of_a_range_under_python_without_asserts(tmp_path):
    call = [sys.executable, "-O", "-m", "oodgen.run", "-m", "seed=range(0,2)", "trainer.max_steps=2", "model=nope"]
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    environment["OODGEN_RUNS"] = str(tmp_path / "runs")
    ended = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert ended.returncode == 2 and "could not find 'model/nope'" in ended.stderr, ended.stderr
    assert not list(tmp_path.iterdir()), "of a grid that cannot be composed nothing is kept"


def test_wandb_runs_are_not_shared(command, tmp_path, monkeypatch):
    for name in ("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    monkeypatch.delenv("WANDB_DIR")
    ended = command("-m", *FAST, "seed=0,1", "logger=wandb", draw=True)
    assert ended.code == 0, ended.err
    import wandb

    assert wandb.run is None
    assert len(list((tmp_path / "runs").rglob("offline-run-*/*.wandb"))) == 2


def test_joblib_runs_cells_side_by_side(tmp_path):
    environment = os.environ | {"OODGEN_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}
    environment.pop("HYDRA_FULL_ERROR", None)
    words = ["-m", *FAST, "seed=0,1", "method.decay=constant,crooked", "hydra/launcher=joblib"]
    call = [sys.executable, "-m", "oodgen.run", *words, "hydra.launcher.n_jobs=2"]
    ended = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("oodgen: 2 of 4 cells failed: seed=0 method.decay=crooked; seed=1")
    assert "Traceback" not in ended.stderr
    assert _states(tmp_path / "runs") == ["done", "done", "failed", "failed"]
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    # the parent of a sweep starts without torch, and a finished cell does too
    again = subprocess.run(
        [*call[:3], *FAST, "seed=1", "method.decay=constant"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert again.returncode == 0 and "found finished" in again.stderr


def test_jobs_are_as_many_as_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,5")
    assert run._jobs() == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run._jobs() == min(2, len(os.sched_getaffinity(0)))


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """Three GPUs that are not there; the list of those taken."""
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(device, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return taken


def test_each_job_takes_a_gpu_of_its_own(gpus):
    with device.exclusive_gpu(), device.exclusive_gpu(), device.exclusive_gpu():
        assert gpus == [0, 1, 2]
        with device.exclusive_gpu():
            assert gpus == [0, 1, 2], "a fourth job shares the current one"
    with device.exclusive_gpu():
        assert gpus[-1] == 0, "given back"


def test_a_failed_job_gives_its_gpu_back(gpus):
    with pytest.raises(ValueError, match="no"), device.exclusive_gpu():
        raise ValueError("no")
    with device.exclusive_gpu():
        assert gpus == [0, 0]


def test_a_gpu_is_the_same_under_another_index(gpus, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7, 5,6")
    with FileLock(tmp_path / f"oodgen-{os.getuid()}-gpu-7.lock"), device.exclusive_gpu():
        assert gpus == [1]


def test_one_gpu_needs_no_lock(gpus, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with device.exclusive_gpu(), device.exclusive_gpu():
        assert gpus == [] and not list(tmp_path.iterdir())
