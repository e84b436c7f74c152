"""A package of somebody else's, outside of the repository: run and scored by its user's word, and not without it."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from oodgen.config import plugins, schema
from oodgen.errors import UserError
from oodgen.score import main as score_main

PARTS = '''
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from oodgen.data.catalog import Dataset
from oodgen.models.vae import VAE
from oodgen.noise import ExampleNoise
from oodgen.probes.probe import Evidence

__all__ = ["Slope", "TheirVAE", "steep", "stripes"]


class TheirVAE(VAE):
    """A model of their own."""


@dataclass(frozen=True)
class Slope:
    gain: float = 1.0
    needs = VAE
    gradients = True

    def batch(self, model: VAE) -> int:
        return 50

    def __call__(self, model: VAE, x: Tensor, noise: ExampleNoise) -> Evidence:
        y = model.observe(x, noise).requires_grad_()
        (slope,) = torch.autograd.grad((self.gain * y.square()).sum(), y)
        return {"norm": slope.flatten(1).norm(dim=1)}


def steep(evidence: Evidence) -> Tensor:
    return evidence["slope/norm"]


def stripes() -> Dataset:
    def read(root, split):
        return np.random.default_rng(0).integers(0, 256, (400, 1, 28, 28), np.uint8), None

    return Dataset("stripes", (1, 28, 28), {}, "theirs", "", read)
'''
CONF = {
    "dataset/stripes": "_target_: their_oodgen.parts.stripes",
    "probe/slope": "_target_: their_oodgen.parts.Slope",
    "score/steep": "_target_: their_oodgen.parts.steep\n_partial_: true",
    "experiment/theirs": """# @package _global_
defaults:
  - /probe@probes.slope: slope
  - /score@scores.steep: steep
  - override /model: vae_grey
  - override /score@scores: none
  - override /dataset@data.inlier: stripes
name: theirs
model: {_target_: their_oodgen.parts.TheirVAE}
""",
}

SCORES = """
from torch import Tensor
from oodgen.probes.probe import Evidence

__all__ = ["Steep", "number", "right", "wrong"]

def wrong(evidence: dict[str, Tensor]) -> Tensor: ...

def number(evidence: Evidence) -> float: ...

def right(evidence: Evidence): ...

class Steep:
    def __call__(self, evidence): ...
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Where the package is; it can be imported, and is enabled nowhere."""
    home = tmp_path / "elsewhere"
    for name, text in CONF.items():
        path = home / "their_oodgen" / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (home / "their_oodgen" / "__init__.py").touch()
    (home / "their_oodgen" / "parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(home)
    monkeypatch.chdir(tmp_path)
    yield home
    for name in ("their_oodgen.parts", "their_oodgen"):
        sys.modules.pop(name, None)
    plugins._conf.cache_clear()


def score(capsys, monkeypatch, *arguments):
    monkeypatch.setenv(plugins.VARIABLE, "")  # what the command before admitted
    capsys.readouterr()
    code = score_main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_a_package_is_run_and_scored_by_its_users_word_alone(command, capsys, monkeypatch, package, tmp_path):
    run = ["+experiment=theirs", "smoke=true", "device.accelerator=cpu"]
    assert "could not find 'experiment/theirs'" in command(*run).error
    done = command(*run, "plugins=[their_oodgen]")
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "runs" / "smoke" / "eval" / "theirs").iterdir()
    assert '"their_oodgen": "not installed"' in (folder / "record.json").read_text()
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "x.png")
    words = [folder, "x.png", "--false-alarm", "0.5", "--score", "steep"]
    code, _, err = score(capsys, monkeypatch, *words)
    assert code == 2 and "the package their_oodgen is not enabled" in err and err.count("\n") == 1
    code, out, err = score(capsys, monkeypatch, *words, "--plugins", "their_oodgen")
    assert code == 0 and "1 image scored by steep" in out, err
    about = package / "their_oodgen-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-oodgen\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text("[oodgen.plugins]\ntheirs = their_oodgen\n")
    installed = own_process(package, "oodgen.score", *words)
    assert installed.returncode == 0 and "1 image scored by steep" in installed.stdout, installed.stderr


def own_process(package, *arguments):
    unset = {name: value for name, value in os.environ.items() if name not in (plugins.VARIABLE, "HYDRA_FULL_ERROR")}
    found = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, env=unset | {"PYTHONPATH": found}, capture_output=True, text=True, timeout=200)


def test_a_score_of_other_arguments_is_told_which_are_wanted(package):
    parts = package / "their_oodgen" / "parts.py"
    parts.write_text(PARTS.replace("steep(evidence: Evidence)", "steep(evidence: dict[str, Tensor])"))
    refused = own_process(package, "oodgen.run", "+experiment=theirs", "smoke=true", "plugins=[their_oodgen]")
    told = "oodgen: scores.steep=steep: annotate what it is called with as (Mapping[str, Tensor])\n"
    assert (refused.returncode, refused.stderr) == (2, told)


def test_the_reason_is_that_of_what_is_refused(package, monkeypatch):
    (package / "their_oodgen" / "more.py").write_text(SCORES)
    monkeypatch.setenv(plugins.VARIABLE, "their_oodgen")
    for name, flag, why in [
        ("wrong", False, "=wrong: annotate what it is called with as (Mapping[str, Tensor])"),
        ("number", True, "=number: expected a function that returns a Tensor, but number returns a number"),
        ("right", False, " must be a function; add _partial_: true beside _target_=their_oodgen.more.right"),
        (
            "Steep",
            True,
            "._partial_=true makes a function of Steep, but a function that returns a Tensor is expected; ",
        ),
        (
            "stepe",
            True,
            "._target_='their_oodgen.more.stepe' does not exist, or is not public; their_oodgen.more has: ",
        ),
    ]:
        with pytest.raises(UserError, match="^" + re.escape(f"scores.x{why}")):
            schema.check_part({"_target_": f"their_oodgen.more.{name}", "_partial_": flag}, "scores.x")
