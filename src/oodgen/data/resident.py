"""Batches indexed from arrays that are kept on the training device.

A batch is a function of (seed, step) alone, so that a killed and resumed run has exactly the batches of an
uninterrupted one.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from oodgen.noise import member_seed

__all__ = ["Batch", "Examples", "SequentialLoader", "TrainLoader", "mutate"]


class Batch(NamedTuple):
    """One batch of stored examples; that of an ensemble has a leading axis of members in every tensor.

    Arguments:
        x: uint8 (B, C, H, W) or float32 (B, D).
        index: The examples' indices in their set, (B,), int64.
        step: The number of this batch in training, from 0; -1 outside of it.
        y: Labels (B,), or None.
        auxiliary: A batch of each auxiliary set, shaped as x.
        negative: A batch of the negative set, or None.
    """

    x: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    step: int = -1
    y: Tensor | None = None
    auxiliary: tuple[Tensor, ...] = ()
    negative: Tensor | None = None

    @classmethod
    def of_members(cls, batches: Sequence["Batch"]) -> "Batch":
        """Stack the batches of all members at one step."""
        x, index, steps, y, auxiliary, negative = zip(*batches, strict=True)
        streams = tuple(torch.stack(stream) for stream in zip(*auxiliary, strict=True))
        return cls(torch.stack(x), torch.stack(index), steps[0], _stacked(y), streams, _stacked(negative))

    def members(self) -> list["Batch"]:
        """The batch of each member."""
        return [
            Batch(
                self.x[m],
                self.index[m],
                self.step,
                None if self.y is None else self.y[m],
                tuple(stream[m] for stream in self.auxiliary),
                None if self.negative is None else self.negative[m],
            )
            for m in range(len(self.x))
        ]


def _stacked(tensors: Sequence[Tensor | None]) -> Tensor | None:
    there = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(there) if there else None


class Examples:
    """Selected examples of an array, on the device if they fit in `resident` bytes, else read by index from the array.

    Arguments:
        x: uint8 (N, C, H, W) or float32 (N, D); may be memory-mapped.
        device: The device of the batches.
        resident: The largest number of bytes to hold on the device.
        rows: Indices of the selected examples; None for all.
    """

    def __init__(self, x: np.ndarray, device: torch.device, resident: int, rows: np.ndarray | None = None) -> None:
        self.device, self.rows = device, rows
        self.size = len(x) if rows is None else len(rows)
        fits = x[:1].nbytes * self.size <= resident
        self.array = None if fits else x
        self.on_device = torch.tensor(np.asarray(x if rows is None else x[rows]), device=device) if fits else None

    def take(self, index: Tensor) -> Tensor:
        """The examples at `index`, (B,) on the CPU, as a tensor on the device."""
        if self.on_device is not None:
            return self.on_device[index.to(self.device)]
        assert self.array is not None
        order, back = torch.unique(index, return_inverse=True)  # reading a memory map is fastest in order
        places = order.numpy() if self.rows is None else self.rows[order.numpy()]
        rows = torch.from_numpy(self.array[places])[back]
        if self.device.type == "cuda":
            return rows.pin_memory().to(self.device, non_blocking=True)
        return rows.to(self.device)


def mutate(x: Tensor, rate: float, draw: torch.Generator) -> Tensor:
    r"""Replace each sub-pixel of stored images, with probability $\mu$ = `rate`, by one uniform on 0..255.

    The new value may equal the old one, so that a share of $\mu\, 255/256$ changes.

    Source: Ren et al. 2019 (Likelihood Ratios for Out-of-Distribution Detection), section 3.
    """
    hit = torch.rand(x.shape, generator=draw) < rate
    value = torch.randint(256, x.shape, generator=draw, dtype=torch.uint8)
    return torch.where(hit.to(x.device), value.to(x.device), x)


class TrainLoader:
    """Shuffled training batches; the loader's state is the step.

    An epoch is a permutation of the inlier set, a function of (seed, epoch), without the last partial batch; the other
    streams are sampled with replacement, as functions of (seed, step). With `members` each batch is that of an
    ensemble, in which a member has the batch of a single model with the member's seed. `mutation` holds the mutation
    rate of the inliers' pixels for each member; see `mutate`.
    """

    def __init__(
        self,
        inlier: Examples,
        batch_size: int,
        seed: int,
        labels: Tensor | None = None,
        auxiliary: Sequence[Examples] = (),
        negative: Examples | None = None,
        members: int | None = None,
        mutation: Sequence[float] = (),
    ) -> None:
        self.inlier, self.batch_size, self.seed, self.labels = inlier, batch_size, seed, labels
        self.members, self.rates = members, list(mutation) or [0.0] * (members or 1)
        self.streams = [*auxiliary, *([negative] if negative is not None else [])]
        self.has_negative = negative is not None
        self.step = 0
        self._orders: dict[int, tuple[int, Tensor]] = {}  # seed -> epoch and its permutation

    def __len__(self) -> int:
        return max(1, self.inlier.size // self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        if self.members is None:
            return self._batch(step, self.seed, self.rates[0])
        seeds = [member_seed(self.seed, m) for m in range(1, self.members + 1)]
        return Batch.of_members([self._batch(step, *member) for member in zip(seeds, self.rates, strict=True)])

    def _batch(self, step: int, seed: int, rate: float) -> Batch:
        epoch, position = divmod(step, len(self))
        if self._orders.get(seed, (-1,))[0] != epoch:
            draw = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            self._orders[seed] = epoch, torch.randperm(self.inlier.size, generator=draw)
        index = self._orders[seed][1][position * self.batch_size : (position + 1) * self.batch_size]
        draw = torch.Generator().manual_seed((seed * 1_000_003 + step) ^ 0x5DEECE66D)
        streams = [
            stream.take(torch.randint(stream.size, (self.batch_size,), generator=draw)) for stream in self.streams
        ]
        negative = streams.pop() if self.has_negative else None
        labels = None if self.labels is None else self.labels[index].to(self.inlier.device)
        x = self.inlier.take(index)
        return Batch(mutate(x, rate, draw) if rate else x, index, step, labels, tuple(streams), negative)

    def __iter__(self) -> Iterator[Batch]:
        """The remaining batches of the epoch of `step`."""
        steps = range(self.step, (self.step // len(self) + 1) * len(self))
        if self.inlier.array is None:
            for step in steps:
                batch = self.batch(step)
                self.step = step + 1  # before the yield: a checkpoint saved during the step includes it
                yield batch
            return
        with ThreadPoolExecutor(1) as reader:  # read the next batch while the device works on this one
            ahead = reader.submit(self.batch, steps[0])
            for step in steps:
                batch = ahead.result()
                if step + 1 in steps:
                    ahead = reader.submit(self.batch, step + 1)
                self.step = step + 1
                yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]


class SequentialLoader:
    """Every example once, in order, with its index and label (if there are labels)."""

    def __init__(self, examples: Examples, batch_size: int, labels: Tensor | None = None) -> None:
        self.examples, self.batch_size, self.labels = examples, batch_size, labels

    def __len__(self) -> int:
        return -(-self.examples.size // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self.examples.size, self.batch_size):
            index = torch.arange(start, min(start + self.batch_size, self.examples.size))
            labels = None if self.labels is None else self.labels[index].to(self.examples.device)
            yield Batch(self.examples.take(index), index, y=labels)
