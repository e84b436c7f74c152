"""Every experiment composes, and runs end to end on random images without any data."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from oodgen.parts import KEYS
from oodgen.paths import config_dir

EXPERIMENTS = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))
GROUPS = {"dataset": "data.inlier", "probe": "probes.bounds", "score": "scores"}


def _config(*overrides: str) -> dict:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("run", list(overrides)), resolve=True)


def _misses(experiment: str) -> set[str]:
    """What an experiment leaves to the command line: the folder of one's own images."""
    misses = OmegaConf.missing_keys(OmegaConf.create(_config(f"+experiment={experiment}")))
    assert misses <= {"data.inlier.root"}
    return misses


def _options() -> list[str]:
    """Every file of conf/ as the override that chooses it."""
    found = []
    for path in sorted(config_dir().rglob("*.yaml")):
        group = path.parent.relative_to(config_dir()).as_posix()
        if group not in (".", "experiment"):
            found.append(f"{group}@{GROUPS[group]}={path.stem}" if group in GROUPS else f"{group}={path.stem}")
    return found


@pytest.mark.parametrize("option", _options())
def test_every_config_composes(option):
    assert set(_config(option)) == set(KEYS)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs(command, tmp_path, monkeypatch, experiment):
    monkeypatch.chdir(tmp_path)
    arguments = [f"+experiment={experiment}", "smoke=true", "data.root=nowhere"]
    if _misses(experiment):
        Image.new("RGB", (40, 40)).save(tmp_path / "one.png")
        arguments.append(f"data.inlier.root={tmp_path}")
    first = command(*arguments)
    assert first.code == 0, first.err
    folders = list((tmp_path / "runs" / "smoke" / "eval").glob("*/*"))
    assert folders
    for folder in folders:
        assert json.loads((folder / "state.json").read_text())["state"] == "done"
        config = OmegaConf.load(folder / "config.yaml")
        rows = (folder / "results.csv").read_text()
        for name in [*config.scores, *config.controls, *config.data.out]:
            assert f",{name}," in rows, name
        assert (folder / "report.html").stat().st_size > 10_000
    assert first.out.rstrip().endswith("report.html")
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "one.png"}, "a run leaves nothing else behind"
    again = command(*arguments)
    assert again.code == 0 and again.out.splitlines()[-1] == first.out.splitlines()[-1]
    assert again.err.count("found finished") == len(folders)


def test_smoke_is_apart_from_the_real_thing(command, tmp_path):
    assert command("+experiment=quickstart", "smoke=true", "--cfg", "job").code == 0
    assert not Path(tmp_path / "runs").exists()
