"""Device settings: accelerator, precision, memory format, compilation, threads, and the choice of a GPU."""

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

__all__ = ["Device", "exclusive_gpu"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """Settings of the computation.

    Arguments:
        accelerator: "auto", "cpu" or "gpu".
        precision: "auto", "32" or "bf16". "auto" is bf16 on devices with native support (Nvidia GPUs from Ampere on,
            CPUs with AMX or AVX-512 bf16), where it measured 1.3-4 times faster; slower elsewhere. Log-probabilities
            and sums are computed in float32.
        channels_last: Memory format of images and convolutions; "auto" is true, which measured 1.1-1.2 times faster
            with bf16 and equal with fp32.
        compile: torch.compile the model's forward pass, for methods that call it (maximum likelihood).
        threads: CPU threads of torch; None for torch's default. Bit-equal results need equal numbers of threads.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: str = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    compile: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.accelerator not in ("auto", "cpu", "gpu"):
            raise UserError(f"device.accelerator={self.accelerator!r} is not one of: auto, cpu, gpu")
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise UserError("device.accelerator=gpu, but torch sees no GPU here; use device.accelerator=auto")

    def resolved(self) -> "Device":
        """The settings with every "auto" resolved, as in the record."""
        gpu = self.accelerator != "cpu" and torch.cuda.is_available()
        precision = str(self.precision)
        if precision == "auto":
            precision = "bf16" if (torch.cuda.is_bf16_supported(False) if gpu else _cpu_has_bf16()) else "32"
        threads, load = self.threads or torch.get_num_threads(), os.getloadavg()[0]
        if not gpu and threads > 1 and load > len(os.sched_getaffinity(0)):
            # measured at twice the load: 28 images/s with two threads, 335 with one
            log.warning(
                "this machine is busy (load %.1f), which slows down torch's %d threads; device.threads=1 may be "
                "ten times faster",
                *(load, threads),
            )
        channels_last = True if self.channels_last == "auto" else self.channels_last
        return Device("gpu" if gpu else "cpu", precision, channels_last, self.compile, threads)

    @property
    def torch(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device()) if self.accelerator == "gpu" else torch.device("cpu")

    def trainer(self) -> dict[str, Any]:
        """The equivalent arguments of a Lightning Trainer."""
        devices = [torch.cuda.current_device()] if self.accelerator == "gpu" else 1
        return {
            "accelerator": self.accelerator,
            "devices": devices,
            "precision": {"bf16": "bf16-mixed", "32": "32-true"}[self.precision],
        }

    def set_memory_format(self, model: nn.Module) -> None:
        """Convert a model to channels-last if set."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def autocast(self) -> AbstractContextManager:
        """The autocast context of the precision, for code outside of Lightning's Trainer."""
        return torch.autocast(self.torch.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()


def _cpu_has_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@contextmanager
def exclusive_gpu() -> Iterator[None]:
    """With several GPUs, reserve one that no other job of this machine uses, for instance jobs of one sweep."""
    count = torch.cuda.device_count()
    # indices count visible GPUs only, so locks are named by CUDA_VISIBLE_DEVICES; /tmp is shared with other users
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
    yield  # more jobs than GPUs: the current one is shared
