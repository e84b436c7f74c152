"""Every experiment composes, and runs end to end on random images without any data."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from oodgen.cell import KEYS, assemble
from oodgen.paths import config_dir

EXPERIMENTS = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))
GROUPS = {"dataset": "data.inlier", "probe": "probes.bounds", "score": "scores"}


def _config(*overrides: str) -> dict:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("run", list(overrides)), resolve=True)


def _needs(experiment: str) -> list[str]:
    """What the command line must add: a folder of one's own has no default."""
    config = _config(f"+experiment={experiment}")
    return [f"{key}=unused" for key in sorted(OmegaConf.missing_keys(OmegaConf.create(config)))]


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
    arguments = [f"+experiment={experiment}", *_needs(experiment), "smoke=true", "data.root=nowhere"]
    if any("inlier.root" in argument for argument in arguments):
        pytest.skip("a folder of one's own is looked at even for a smoke run")
    # a wide model costs seconds and proves no more: the widths shrink, the layers stay
    first = command(*arguments, "device.precision=32")
    assert first.code == 0, first.err
    (folder,) = (tmp_path / "runs" / "smoke" / "eval").glob("*/*")
    assert json.loads((folder / "state.json").read_text())["state"] == "done"
    config = assemble(_config(*arguments)).config
    rows = (folder / "results.csv").read_text()
    for name in {**config["scores"], **config["controls"]}:
        assert f",{name}," in rows, name
    for name in config["data"]["out"]:
        assert f",{name}," in rows, name
    assert (folder / "report.html").stat().st_size > 10_000
    assert first.out.rstrip().endswith("report.html")
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}, "a run leaves nothing in the working directory"
    again = command(*arguments, "device.precision=32")
    assert (again.code, again.out) == (0, first.out)
    assert "found finished" in again.err


def test_smoke_is_apart_from_the_real_thing(command, tmp_path):
    assert command("+experiment=quickstart", "smoke=true", "--cfg", "job").code == 0
    assert not Path(tmp_path / "runs").exists()
