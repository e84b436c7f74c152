"""Floating-point operations per image, and the share of the machine's convolution rate that training reaches."""

import copy
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from oodgen.bench.subject import Bench, Step, make_subject, precision_settings, setting_name
from oodgen.bench.timing import Table, interleaved
from oodgen.noise import RandomNoise
from oodgen.training.device import Device

__all__ = ["measure"]


class ConvolutionShape(NamedTuple):
    """The shapes of one convolution, without the batch axis of its input and output."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    y: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    transposed: bool
    extra: tuple[int, ...]

    @property
    def flop(self) -> int:
        """Floating-point operations of a forward pass, per image."""
        return conv_flop_count([1, *self.x], list(self.weight), [1, *self.y], self.transposed)

    def __str__(self) -> str:
        kernel = "x".join(map(str, self.weight[2:]))
        return f"{'up ' * self.transposed}{kernel} {'x'.join(map(str, self.x))} -> {'x'.join(map(str, self.y))}"


@final
class ConvolutionCounter(TorchDispatchMode):
    """Counts convolutions by shape."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[ConvolutionShape] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            x, weight, _, stride, padding, _, transposed, extra, _ = args
            shapes = tuple(x.shape[1:]), tuple(weight.shape), tuple(y.shape[1:])
            self.seen[ConvolutionShape(*shapes, tuple(stride), tuple(padding), transposed, tuple(extra))] += 1
        return y


def measure(bench: Bench) -> list[Table]:
    """Counts, rates and ceilings of the first model, and the ceilings of its dominant convolutions."""
    name, device = bench.models[0], bench.device.torch
    method, model, x = make_subject(name, bench.batch, device)
    y = model.observe(x, RandomNoise())
    with torch.no_grad(), ConvolutionCounter() as observed, FlopCounterMode(display=False) as forward:
        model(y, RandomNoise())
    fp32 = next(iter(precision_settings(bench.device).values()))
    with FlopCounterMode(display=False) as training:
        Step(copy.deepcopy(model), method.make_optimizer, fp32)(x)
    flop, total = training.get_total_flops(), forward.get_total_flops()
    heaviest = sorted(observed.seen, key=lambda c: -c.flop * observed.seen[c])[:3]

    calls: dict[str, Callable[[], Any]] = {}
    steps = {
        label: s
        for label, s in precision_settings(bench.device).items()
        if s.channels_last == bench.device.channels_last
    }
    for label, setting in precision_settings(bench.device).items():
        if label in steps:
            calls[label] = partial(Step(copy.deepcopy(model), method.make_optimizer, setting), x)
        for convolution in heaviest:
            calls[f"{label}: {convolution}"] = _forward_backward(convolution, bench.batch, setting)
    timings = interleaved(calls, device, bench.effort)

    rates = {}
    for label in precision_settings(bench.device):
        for c in heaviest:
            # one matrix product forward, two backward
            rates[label, c] = 3 * c.flop * bench.batch / timings[f"{label}: {c}"].median / 1e9
    ceiling = {p: max(rate for (label, _), rate in rates.items() if label.startswith(p)) for p in ("fp32", "bf16")}
    achieved = {label: flop / timings[label].median / 1e9 for label in steps}
    rows = [(label, rate, ceiling[label[:4]], f"{rate / ceiling[label[:4]]:.0%}") for label, rate in achieved.items()]
    notes = [
        f"per image: forward {total / bench.batch / 1e9:.3g} GFLOP, training step {flop / bench.batch / 1e9:.3g} GFLOP",
        f"default: {setting_name(bench.device)}; ceiling: the fastest of the convolutions below in that precision",
    ]
    header: tuple[str, ...] = ("training step", "GFLOP/s", "ceiling", "reached")
    counted = Table(f"Arithmetic: {name}, batch {bench.batch}", header, rows, notes)
    share = {c: f"{c.flop * observed.seen[c] * bench.batch / total:.0%}" for c in heaviest}
    header = ("forward + backward", "of forward", *precision_settings(bench.device))
    shapes = [(str(c), share[c], *(rates[label, c] for label in precision_settings(bench.device))) for c in heaviest]
    return [counted, Table("Its dominant convolutions alone, GFLOP/s", header, shapes)]


def _forward_backward(convolution: ConvolutionShape, batch: int, setting: Device) -> Callable[[], None]:
    """A forward and backward pass of one convolution, with the gradients of its input and weight."""
    kind = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=setting.torch, dtype=kind).to(memory_format=layout)

    x, weight = draw(batch, *convolution.x).requires_grad_(), draw(*convolution.weight).requires_grad_()
    grad, (_, _, _, stride, padding, transposed, extra) = draw(batch, *convolution.y), convolution

    def run() -> None:
        y = torch.convolution(x, weight, None, stride, padding, (1, 1), transposed, extra, 1)
        torch.autograd.grad(y, (x, weight), grad)

    return run
