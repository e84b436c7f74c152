"""Interleaved timing of variants, which makes comparisons robust to drifting load, and tables of the results."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

__all__ = ["Effort", "Table", "Timing", "clock", "interleaved", "text"]


class Effort(NamedTuple):
    """Duration of the measurements.

    Arguments:
        least, most: Rounds of each comparison.
        seconds: Time after which a comparison ends, once `least` rounds are done.
        unit: Minimal duration of one measurement in seconds; faster calls are repeated.
    """

    least: int = 3
    most: int = 25
    seconds: float = 12
    unit: float = 0.05


class Timing(NamedTuple):
    """Seconds of one call in each round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """The fastest round."""
        return min(self.seconds)


class Table(NamedTuple):
    """A table of results, with notes below it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()


def clock(device: torch.device) -> float:
    """`time.perf_counter` after synchronising the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def interleaved(variants: Mapping[str, Callable[[], Any]], device: torch.device, effort: Effort) -> dict[str, Timing]:
    """Time every variant once in each round, after one warm-up call of each.

    The order is reversed after each round.
    """
    repeats = {}
    for name, call in variants.items():
        repeats[name], start = 1, clock(device)
        call()  # allocations, choice of kernels, compilation
        if clock(device) - start < 1:
            start = clock(device)
            call()
            repeats[name] = max(1, round(effort.unit / (clock(device) - start)))
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    begun, order = time.perf_counter(), list(variants)
    for done in range(effort.most):
        if done >= effort.least and time.perf_counter() - begun > effort.seconds:
            break
        for name in order:
            start = clock(device)
            for _ in range(repeats[name]):
                variants[name]()
            seconds[name].append((clock(device) - start) / repeats[name])
        order.reverse()
    return {name: Timing(taken) for name, taken in seconds.items()}


def text(table: Table) -> str:
    """A table as text: the first column left-aligned, numbers right-aligned with about three digits."""
    lines = [list(table.header), *([_short(value) for value in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    pad = [str.ljust] + [str.rjust] * (len(widths) - 1)
    body = ["  ".join(f(cell, w) for f, cell, w in zip(pad, line, widths, strict=True)).rstrip() for line in lines]
    rule = "-" * max(map(len, body))
    return "\n".join([f"\n{table.title}", rule, body[0], rule, *body[1:], *(f"  {note}" for note in table.notes)])


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
