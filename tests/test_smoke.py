"""Every experiment composes, and runs end to end on random images without any data."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image

import oodgen.run  # noqa: F401  (its resolvers)
from oodgen.config.allowed import RUN
from oodgen.runs import record
from oodgen.runs.locations import config_dir
from oodgen.training import assembly

EXPERIMENTS = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))
GROUPS = {"evidence": "scores", "score": "scores"}
# as many parts and as large as it takes to see that they run
SMALLER = {
    **dict.fromkeys(
        ("cifar10_wgan_ensemble", "fashion_mnist_wgan_ensemble", "mnist_wgan_ensemble"), ("method.size=2",)
    ),
    "cifar10_glow_ensemble": ("method.size=2", "model.steps=2", "model.hidden=16"),
    "cifar_svhn_glow": ("model.hidden=64",),  # as deep as it is
}
# one of each kind of page draws its figures, and is asked for again
DRAWN = ("credit_fraud_vae", "fashion_mnist_llr_ada_lvae", "fashion_mnist_ns_generated", "mnist_vib")
FIRST_BUILD = json.loads(Path(__file__).with_name("first_build.json").read_text())["fingerprints"]
SWEEPS = sorted(path.stem for path in (config_dir() / "sweep").glob("*.yaml"))


@pytest.fixture(scope="session")
def resolved(composed):
    return lambda command: OmegaConf.to_container(composed(command), resolve=True)


def _misses(config: DictConfig) -> set[str]:
    """What an experiment leaves to the command line: the folders of one's own images."""
    data = config.data
    parts = {"data.inlier.root": data.inlier, "data.negative.root": data.negative}
    return {name for name, part in parts.items() if part is not None and OmegaConf.is_missing(part, "root")}


def _names(config: DictConfig) -> str | list[str]:
    """The name of the config's training in float32; of an ensemble that of each member's own training too."""
    for missing in _misses(config):
        OmegaConf.update(config, missing, "images")
    if config.device.precision == "auto":
        config.device.precision = 32
    found = OmegaConf.to_container(config, resolve=True)
    members = range(1, found["method"]["size"] + 1) if "member" in found["method"] else ()
    names = [record.fingerprint(found), *(record.fingerprint(assembly.member_config(found, i)) for i in members)]
    return names if members else names[0]


def _thin(config: DictConfig) -> list[str]:
    """A hierarchy's layers with few channels and latent variables: as deep as they are, in a tenth of the time."""
    layers = enumerate(config.model.get("layers", ()))
    return [f"model.layers.{i}.{name}=8" for i, layer in layers for name in ("channels", "latent") if layer[name] > 8]


def _options() -> list[str]:
    """Every file of conf/ as the overrides that choose it; all sets in one command, and all probes."""
    names = {
        group: sorted(path.stem for path in (config_dir() / group).glob("*.yaml")) for group in ("dataset", "probe")
    }
    found = [" ".join(f"+dataset@data.out.{name}_={name}" for name in names["dataset"])]
    found += [" ".join(f"+probe@probes.{name}_={name}" for name in names["probe"])]
    for path in sorted(config_dir().rglob("*.yaml")):
        group = path.parent.relative_to(config_dir()).as_posix()
        if group in names:
            continue
        if group in ("likelihood", "prior"):
            found.append(f"model=vae_grey {group}@model.{group}={path.stem}")
        elif group not in (".", "experiment", "sweep", "scale"):
            found.append(f"{group}@{GROUPS[group]}={path.stem}" if group in GROUPS else f"{group}={path.stem}")
    return found


@pytest.mark.parametrize("option", _options())
def test_every_config_composes(resolved, option):
    assert set(resolved(option)) == set(RUN)


SCALES = {
    "cpu3": [path for path in EXPERIMENTS if path.startswith("fashion_mnist_llr_ada") and not path.endswith("5")],
    "cpu5": [path for path in EXPERIMENTS if path.startswith("fashion_mnist_llr_ada")],
    "cpu_natural": ["cifar_svhn_llr", "cifar_svhn_llr_ada", "cifar_svhn_llr_ada_biva", "cifar_svhn_llr_ada_lvae"],
}


@pytest.mark.parametrize(("scale", "experiment"), [(s, e) for s, several in SCALES.items() for e in several])
def test_a_scale_makes_every_hierarchy_small(resolved, scale, experiment):
    config = resolved(f"+experiment={experiment} +scale={scale}")
    assert set(config) == set(RUN) and config["trainer"]["max_epochs"] == 5 and config["data"]["limit"] == 1000
    layers = config["model"]["layers"]
    assert len(layers) == (5 if scale == "cpu5" else 3) and all(layer["blocks"] == 1 for layer in layers)
    assert {f"kl_{i}" for i in range(1, len(layers) + 1)} <= set(config["scores"])


def test_every_scale_is_tried_and_every_exception_is_an_experiment():
    assert {*SMALLER, *DRAWN} <= set(EXPERIMENTS)
    assert set(SCALES) == {path.stem for path in (config_dir() / "scale").glob("*.yaml")}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_sweep_is_over_experiments_and_options_that_are_there(resolved, sweep):
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        asked = compose("run", [f"+sweep={sweep}"], return_hydra_config=True).hydra
    assert asked.mode.name == "MULTIRUN"
    options = {key: str(values).split(",") for key, values in asked.sweeper.params.items()}
    assert set(options["+experiment"]) <= set(EXPERIMENTS)
    for experiment in options.pop("+experiment"):
        for key, values in options.items():
            found = [resolved(f"+experiment={experiment} {key}={value}") for value in values]
            assert len({str(config) for config in found}) == len(values), "a value that changes nothing"


@pytest.mark.parametrize("command", FIRST_BUILD)
def test_a_training_is_named_as_by_the_first_build(composed, command):
    assert _names(composed(command)) == FIRST_BUILD[command]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs(command, composed, tmp_path, monkeypatch, experiment):
    monkeypatch.chdir(tmp_path)
    shipped = composed(f"+experiment={experiment}")
    arguments = [f"+experiment={experiment}", "smoke=true", "data.root=nowhere", *_thin(shipped)]
    arguments += SMALLER.get(experiment, ())
    # two out sets, and those that are made in a way of their own: in a smoke run all others are the same random images
    arguments += [f"~data.out.{name}" for name in list(shipped.data.out)[2:] if name not in ("adversarial", "rejects")]
    for missing in _misses(shipped):
        (tmp_path / missing).mkdir()
        Image.new("RGB", (40, 40)).save(tmp_path / missing / "one.png")
        arguments.append(f"{missing}={tmp_path / missing}")
    first = command(*arguments, draw=experiment in DRAWN)
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
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", *_misses(shipped)}, "a run leaves nothing else behind"
    if experiment in DRAWN:
        again = command(*arguments)
        assert again.code == 0 and again.out.splitlines()[-1] == first.out.splitlines()[-1]
        assert again.err.count("found finished") == len(folders)


def test_smoke_is_apart_from_the_real_thing(command, tmp_path):
    assert command("+experiment=quickstart", "smoke=true", "--cfg", "job").code == 0
    assert not Path(tmp_path / "runs").exists()
