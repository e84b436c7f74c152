"""What the tests share."""

import hashlib
import io
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from oodgen.runs.files import atomic_path
from oodgen.runs.locations import config_dir


@pytest.fixture(scope="session", autouse=True)
def parsed_once() -> Iterator[None]:
    """Each YAML file is parsed once, which is a third of the time of composing a config."""
    parse = OmegaConf.load
    parsed = cache(lambda text: pickle.dumps(parse(io.StringIO(text))))

    def load(file: str | Path | IO[str]) -> object:
        return parse(file) if isinstance(file, (str, Path)) else pickle.loads(parsed(file.read()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", load)
        yield


@pytest.fixture(scope="session")
def composed(tmp_path_factory) -> Callable[[str], DictConfig]:
    """Composes conf/run.yaml with the overrides of a command, for all processes of the suite once; returns a copy."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "configs"

    def config(command: str) -> DictConfig:
        path = folder / hashlib.sha256(command.encode()).hexdigest()
        if not path.is_file():
            with initialize_config_dir(str(config_dir()), version_base="1.3"):
                made = compose("run", command.split())
            with atomic_path(path) as temporary:
                temporary.write_bytes(pickle.dumps(made))
        return pickle.loads(path.read_bytes())

    return config


@pytest.fixture
def data_root() -> Path:
    """The root of real data, read only; the test is skipped where OODGEN_DATA names none."""
    if "OODGEN_DATA" not in os.environ:
        pytest.skip("OODGEN_DATA names no data root")
    return Path(os.environ["OODGEN_DATA"])


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what was wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("oodgen: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        assert self.err.count(lines[0].removeprefix("oodgen: ")) == 1, "said twice"
        return lines[0]


def undrawn(figure: object, path: Path) -> Path:
    """In place of `oodgen.plots.style.save`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("<svg/>")
    return path


@pytest.fixture
def command(monkeypatch, capsys, tmp_path) -> Iterator[Callable[..., Ended]]:
    """Runs `python -m oodgen.run ARGUMENTS` in this process, which spares the seconds of importing torch.

    The page's figures are made, but drawn only if `draw`: that takes longer than all else of a small run.
    """
    from oodgen import run
    from oodgen.plots import style

    handler, save = signal.getsignal(signal.SIGTERM), style.save
    monkeypatch.setenv("OODGEN_PLUGINS", "")  # what a command admits stands there, and goes with the test

    def call(*arguments: str, full_error: bool = False, draw: bool = False) -> Ended:
        monkeypatch.setattr(style, "save", save if draw else undrawn)
        # set here, so that what the command sets does not outlive the test
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1" if full_error else "")
        monkeypatch.setenv("OODGEN_RUNS", str(tmp_path / "runs"))
        monkeypatch.setattr(sys, "argv", ["oodgen", *arguments])
        capsys.readouterr()
        code = 0
        try:
            run.main()
        except SystemExit as error:
            code = error.code
        return Ended(code, *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def tiny(tmp_path) -> list[str]:
    """Arguments of a run of a few steps on a few images of a user's own, prepared as `mnist` and `kmnist`."""
    return tiny_run(tmp_path / "data")


@pytest.fixture(scope="session")
def tiny_factory() -> Callable[[Path], list[str]]:
    """The same for a root of one's own."""
    return tiny_run


def tiny_run(root: Path) -> list[str]:
    rng = np.random.default_rng(0)
    for name in ("mnist", "kmnist"):
        (root / "prepared" / name).mkdir(parents=True)
        for split, count in (("train", 400), ("test", 20)):
            x = rng.integers(0, 256, (count, 1, 28, 28), np.uint8)
            x[:, :, 8:20, 8:20] //= 8
            np.save(root / "prepared" / name / f"{split}.npy", x)
    options = "data=base +dataset@data.inlier=mnist +dataset@data.out.kmnist=kmnist +dataset@data.out.hflip=hflip"
    layers = (
        "model=hvae_tiny trainer.max_epochs=3 data.batch_size=16 method.warmup=2 method.decay=linear snapshots=[2,3]"
    )
    return [*options.split(), *layers.split(), f"data.root={root}", "device.accelerator=cpu", "device.precision=32"]
