"""What is measured: a model of conf/model as an experiment would train it, and a training step with nothing around."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple, final

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from torch import Tensor, nn
from torch.optim import Optimizer

from oodgen.bench.timing import Effort
from oodgen.errors import UserError
from oodgen.methods.likelihood import MaximumLikelihood
from oodgen.models.density import Density
from oodgen.models.layered import HierarchicalVAE
from oodgen.noise import RandomNoise
from oodgen.runs.locations import config_dir
from oodgen.training.device import Device

__all__ = ["Bench", "Step", "Subject", "images", "name_of", "settings", "subject"]


class Bench(NamedTuple):
    """What every section is told.

    Arguments:
        device: The device's default setting, resolved.
        models: Names in conf/model, the paper's first.
        batch: Images in a training batch.
        compile: Measure torch.compile too.
        quick: Sizes only large enough to see that it runs.
        effort: How long to measure.
    """

    device: Device
    models: tuple[str, ...]
    batch: int
    compile: bool
    quick: bool
    effort: Effort


class Subject(NamedTuple):
    """A method with its model, on the device and initialised on x, a batch of uint8 images."""

    method: MaximumLikelihood
    model: HierarchicalVAE
    x: Tensor


def subject(name: str, count: int, device: torch.device) -> Subject:
    """The default method with a model of conf/model, and `count` random images.

    Raises:
        UserError: there is no such model, or it is no hierarchy.
    """
    if not (config_dir() / "model" / f"{name}.yaml").is_file():
        there = ", ".join(sorted(path.stem for path in (config_dir() / "model").glob("*.yaml")))
        raise UserError(f"--models {name!r} is no model; there are: {there}")
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("run", [f"model={name}"])
    # before it is built: the default method refuses what is no density, in words of its own
    if not issubclass(get_class(config.model._target_), HierarchicalVAE):
        raise UserError(f"--models {name!r} is no hierarchy of latent variables, whose bounds could be scored")
    torch.manual_seed(0)
    method = instantiate(config.method, _convert_="all")
    model = method.model.to(device)
    x = images(count, model.shape, device)
    model.initialise(model.observe(x, RandomNoise()), RandomNoise())
    return Subject(method, model, x)


def images(count: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Random uint8 images, the same at every call."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=draw).to(device)


def settings(device: Device) -> dict[str, Device]:
    """Both precisions, each in both memory formats, on one device; fp32 and contiguous first."""
    made = [replace(device, precision=p, channels_last=c, compile=False) for p in ("32", "bf16") for c in (False, True)]
    return {name_of(setting): setting for setting in made}


def name_of(setting: Device) -> str:
    precision = "fp32" if setting.precision == "32" else setting.precision
    return precision + ", channels-last" * bool(setting.channels_last) + ", compiled" * setting.compile


@final
class Step:
    """Forward, backward and optimiser step of a model, and nothing else.

    Arguments:
        model: The model; moved to the device and its memory format.
        optimizer: From parameters to an optimiser.
        setting: Precision, memory format, compilation.
    """

    def __init__(
        self, model: Density, optimizer: Callable[[Iterable[nn.Parameter]], Optimizer], setting: Device
    ) -> None:
        self.model, self.setting = model.to(setting.torch), setting
        setting.place(model)
        if setting.compile:
            model.compile()
        self.optimizer = optimizer(model.parameters())

    def __call__(self, x: Tensor) -> None:
        with self.setting.autocast():
            loss = -self.model(self.model.observe(x, RandomNoise()), RandomNoise()).elbo.mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
