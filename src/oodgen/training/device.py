"""The best setting of the device at hand: precision, memory format, threads, and which GPU."""

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from torch import nn

from oodgen.errors import UserError

__all__ = ["Device", "one_gpu"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """How to compute.

    Arguments:
        accelerator: "auto", "cpu" or "gpu".
        precision: "auto", "32" or "bf16". Automatic is bf16 where the device multiplies it natively (an Nvidia GPU
            from Ampere on; a CPU with AMX or AVX-512 bf16): measured 1.3-4 times faster there, slower elsewhere.
            Log-probabilities and sums stay in float32.
        channels_last: Memory format of images and convolutions; "auto" is true: 1.1-1.2 times faster with
            bf16, no clear difference with fp32.
        compile: torch.compile the model's forward pass, for methods that train by it, as maximum likelihood: worth its
            minute on a GPU and in long runs.
        threads: CPU threads of torch; None for its own choice. Bit-equal results need equal numbers.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: str = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    compile: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.accelerator not in ("auto", "cpu", "gpu"):
            raise UserError(f"device.accelerator={self.accelerator!r} is not one of: auto, cpu, gpu")
        if str(self.precision) not in ("auto", "32", "bf16"):
            raise UserError(f"device.precision={self.precision!r} is not one of: auto, 32, bf16")
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise UserError("device.accelerator=gpu, but torch sees no GPU here; use device.accelerator=auto")

    def resolved(self) -> "Device":
        """The same with nothing left automatic; this is what the record states."""
        gpu = self.accelerator != "cpu" and torch.cuda.is_available()
        precision = str(self.precision)
        if precision == "auto":
            precision = "bf16" if (torch.cuda.is_bf16_supported(False) if gpu else _cpu_has_bf16()) else "32"
        threads, load = self.threads or torch.get_num_threads(), os.getloadavg()[0]
        if not gpu and threads > 1 and load > len(os.sched_getaffinity(0)):
            # measured at twice the load: 28 images/s with two threads, 335 with one
            log.warning(
                "other work holds this machine's cores (load %.1f): torch's %d threads will wait for each other, "
                "device.threads=1 may be ten times faster",
                *(load, threads),
            )
        channels_last = True if self.channels_last == "auto" else self.channels_last
        return Device("gpu" if gpu else "cpu", precision, channels_last, self.compile, threads)

    @property
    def torch(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device()) if self.accelerator == "gpu" else torch.device("cpu")

    def trainer(self) -> dict[str, Any]:
        """The arguments of a Lightning Trainer that say the same."""
        devices = [torch.cuda.current_device()] if self.accelerator == "gpu" else 1
        return {
            "accelerator": self.accelerator,
            "devices": devices,
            "precision": "bf16-mixed" if self.precision == "bf16" else "32-true",
        }

    def place(self, model: nn.Module) -> None:
        """Give a model its memory format."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def autocast(self) -> AbstractContextManager:
        """The precision, as a context for code outside of Lightning's Trainer."""
        return torch.autocast(self.torch.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()


def _cpu_has_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@contextmanager
def one_gpu() -> Iterator[None]:
    """With several GPUs, take one that no other job of this machine holds, so that each job of a sweep has its own."""
    count = torch.cuda.device_count()
    # an index counts the visible GPUs only, so name a lock by what makes them visible; /tmp is shared with other users
    names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")[:count]
    locks = [FileLock(Path(gettempdir()) / f"oodgen-{os.getuid()}-gpu-{name.strip()}.lock") for name in names]
    if len(locks) < 2:
        yield
        return
    for i, lock in enumerate(locks):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        try:
            torch.cuda.set_device(i)
            yield
        finally:
            lock.release()
        return
    yield  # more jobs than GPUs: share the current one
