"""The subjects of the benchmarks: models of conf/model with the default method, and a bare training step."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple, final

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from oodgen.bench.timing import Effort
from oodgen.config.instantiate import build
from oodgen.errors import UserError
from oodgen.methods.likelihood import MaximumLikelihood
from oodgen.models.density import Density
from oodgen.models.layered import HierarchicalVAE
from oodgen.noise import RandomNoise
from oodgen.runs.locations import config_dir
from oodgen.training.device import Device

__all__ = ["Bench", "Step", "Subject", "make_subject", "precision_settings", "random_images", "setting_name"]


class Bench(NamedTuple):
    """Settings of a benchmark.

    Arguments:
        device: The default device settings, resolved.
        models: Names in conf/model, the paper's first.
        batch: Training batch size.
        compile: Measure torch.compile too.
        quick: Use minimal sizes, for a test run.
        effort: Duration of the measurements.
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


def check_model(name: str) -> None:
    """Raise UserError if conf/model has no file of this name."""
    there = sorted(path.stem for path in (config_dir() / "model").glob("*.yaml"))
    if name not in there:
        raise UserError(f"--models {name!r} is no model; there are: {', '.join(there)}")


def make_subject(name: str, count: int, device: torch.device) -> Subject:
    """The default method with a model of conf/model, and `count` random images.

    Raises:
        UserError: there is no such model, or it is not a hierarchical VAE.
    """
    check_model(name)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("run", [f"model={name}"])
    # checked first, since the default method would refuse other models with another message
    if not issubclass(get_class(config.model._target_), HierarchicalVAE):
        raise UserError(f"--models {name!r} is no hierarchy of latent variables, whose bounds could be scored")
    torch.manual_seed(0)
    method = build(OmegaConf.to_container(config.method, resolve=True), "method")
    model = method.model.to(device)
    x = random_images(count, model.shape, device)
    model.initialise(model.observe(x, RandomNoise()), RandomNoise())
    return Subject(method, model, x)


def random_images(count: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Random uint8 images, equal at every call."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=draw).to(device)


def precision_settings(device: Device) -> dict[str, Device]:
    """Both precisions, each in both memory formats, on one device; fp32 and contiguous first."""
    made = [replace(device, precision=p, channels_last=c, compile=False) for p in ("32", "bf16") for c in (False, True)]
    return {setting_name(setting): setting for setting in made}


def setting_name(setting: Device) -> str:
    precision = "fp32" if setting.precision == "32" else setting.precision
    return precision + ", channels-last" * bool(setting.channels_last) + ", compiled" * setting.compile


@final
class Step:
    """A bare training step: forward, backward and optimiser step.

    Arguments:
        model: The model; moved to the device and its memory format.
        optimizer: From parameters to an optimiser.
        setting: Precision, memory format, compilation.
    """

    def __init__(
        self, model: Density, optimizer: Callable[[Iterable[nn.Parameter]], Optimizer], setting: Device
    ) -> None:
        self.model, self.setting = model.to(setting.torch), setting
        setting.set_memory_format(model)
        if setting.compile:
            model.compile()
        self.optimizer = optimizer(model.parameters())

    def __call__(self, x: Tensor) -> None:
        with self.setting.autocast():
            loss = -self.model(self.model.observe(x, RandomNoise()), RandomNoise()).elbo.mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
