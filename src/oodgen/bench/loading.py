"""Rate of the device-resident loader, against torch's Dataset and DataLoader."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms.functional import to_tensor

from oodgen.bench.subject import Bench
from oodgen.bench.timing import Table, interleaved
from oodgen.data.resident import Examples, TrainLoader

__all__ = ["measure"]

COUNT = 20_000


@final
class Pictures(Dataset[Tensor]):
    """One image at a time through Pillow and `to_tensor`, as torchvision's sets do it."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Tensor:
        return to_tensor(Image.fromarray(self.x[i, 0]))


def measure(bench: Bench) -> list[Table]:
    """One table; every variant ends with floats in [0, 1] on the device."""
    device = bench.device.torch
    x = np.random.default_rng(0).integers(0, 256, (max(COUNT, bench.batch), 1, 28, 28), np.uint8)
    pin = device.type == "cuda"
    options: dict[str, Any] = {"batch_size": bench.batch, "shuffle": True, "drop_last": True, "pin_memory": pin}
    resident = TrainLoader(Examples(x, device, x.nbytes), bench.batch, 0)
    workers = min(4, len(os.sched_getaffinity(0)))
    tensors = DataLoader(TensorDataset(torch.tensor(x)), **options)
    several = DataLoader(Pictures(x), num_workers=workers, persistent_workers=True, **options)
    streams: dict[str, Iterator[Tensor]] = {
        "oodgen: resident": (batch.x for batch in _for_ever(resident)),
        "TensorDataset + DataLoader": (batch for (batch,) in _for_ever(tensors)),
        "Pillow + DataLoader": _for_ever(DataLoader(Pictures(x), **options)),
        f"Pillow + DataLoader, {workers} workers": _for_ever(several),
    }
    calls: dict[str, Callable[[], Any]] = {name: partial(_next, stream, device) for name, stream in streams.items()}
    timings = interleaved(calls, device, bench.effort)
    ours = timings["oodgen: resident"].median
    rows = [(name, 1 / t.median, bench.batch / t.median, t.median / ours) for name, t in timings.items()]
    title = f"Data: batches of {bench.batch} images of 28 x 28, as floats on the {device.type}"
    return [Table(title, ("loader", "batches/s", "images/s", "x time of resident"), rows)]


def _for_ever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader
        if isinstance(loader, TrainLoader):
            loader.step %= len(loader)


def _next(stream: Iterator[Tensor], device: torch.device) -> Tensor:
    x = next(stream).to(device, non_blocking=True)
    return x / 255 if x.dtype == torch.uint8 else x
