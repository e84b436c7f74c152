"""Cells in other processes: of joblib, submitit and Ray, and inside of a Slurm job."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from lightning_fabric.utilities.rank_zero import rank_zero_only

FAST = ["+experiment=quickstart", "smoke=true", "model=hvae_tiny", "device.accelerator=cpu", "device.threads=1"]


def test_a_slurm_job_of_several_tasks_trains_as_any_process(command, tmp_path, monkeypatch):
    for name, value in {"NTASKS": "4", "JOB_ID": "7", "JOB_NAME": "sweep", "PROCID": "1", "LOCALID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    ended = command(*FAST)
    assert ended.code == 0, ended.err
    (train,) = (tmp_path / "runs" / "smoke" / "train").iterdir()
    curves = (train / "metrics.csv").read_text()
    # what Lightning left where it had requeued a job; it would resume from it
    (train / "hpc_ckpt_1.ckpt").write_bytes((train / "checkpoints" / "last.ckpt").read_bytes())
    ended = command(*FAST, "retrain=true")
    assert ended.code == 0, ended.err
    assert (train / "metrics.csv").read_text() == curves
    assert {path.name for path in train.rglob("*.ckpt")} == {"last.ckpt"}


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen:
    """A sweep in a process of its own, its terminal in tmp_path/terminal.txt."""
    environment = os.environ | {"OODGEN_RUNS": "runs", "OMP_NUM_THREADS": "1"}
    environment.pop("HYDRA_FULL_ERROR", None)
    call = [sys.executable, "-m", "oodgen.run", "-m", *FAST, *arguments]
    with (tmp_path / "terminal.txt").open("w") as terminal:
        return subprocess.Popen(call, cwd=tmp_path, env=environment, stdout=terminal, stderr=terminal)


@pytest.mark.parametrize("launcher", ["submitit", pytest.param("ray", marks=pytest.mark.extras)])
def test_a_failed_cell_is_named_and_the_other_finishes(tmp_path, launcher):
    if find_spec(f"hydra_plugins.hydra_{launcher}_launcher") is None:
        pytest.skip(f"the launcher of {launcher} is not installed")
    choice = "hydra/launcher=" + {"submitit": "submitit_local"}.get(launcher, launcher)
    assert start(tmp_path, "method.decay=constant,crooked", choice).wait(300) == 2
    said = (tmp_path / "terminal.txt").read_text()
    assert said.splitlines()[-1] == "oodgen: 1 of 2 cells failed: method.decay=crooked"
    assert "Traceback" not in said
    cells = {path.parent for path in tmp_path.glob("runs/smoke/eval/*/*/log.txt")}
    (done,) = [folder for folder in cells if (folder / "report.html").is_file()]
    (failed,) = cells - {done}
    assert "method.decay='crooked' is not" in (failed / "log.txt").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "terminal.txt"}


def test_a_launcher_that_is_missing_is_named_with_its_extra(command, monkeypatch):
    ray = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"
    monkeypatch.delitem(Plugins.instance().class_name_to_class, ray, raising=False)
    ended = command("-m", *FAST, "seed=0,1", "hydra/launcher=ray")
    assert ended.code == 2
    assert ended.error == "oodgen: hydra/launcher=ray is not installed; pip install 'oodgen[cluster]'"


def workers(folder: Path) -> set[int]:
    """The processes whose working directory is the folder."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder and b"loky" in (process / "cmdline").read_bytes():
                found.add(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end the workers")
def test_workers_end_with_a_sweep_that_is_killed(tmp_path, command):
    sweep = start(tmp_path, "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    running = tmp_path / "runs" / "smoke" / "eval"
    while len(list(running.glob("*/*/state.json"))) < 2:  # both cells have begun
        assert sweep.poll() is None
        time.sleep(0.05)
    assert workers(tmp_path)
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.wait()
    for _ in range(100):
        if not workers(tmp_path):
            break
        time.sleep(0.1)
    assert not workers(tmp_path)
    assert command("-m", *FAST, "seed=0,1").code == 0  # in this process, to be quick
    states = [json.loads(path.read_text())["state"] for path in running.glob("*/*/state.json")]
    assert states == ["done", "done"]
