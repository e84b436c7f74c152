"""Scoring rate: all bounds L^{>k} in one pass against one for each level, and the other probes beside them."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodgen.bench.subject import Bench, make_subject, random_images, setting_name
from oodgen.bench.timing import Table, interleaved
from oodgen.models.density import Hierarchy
from oodgen.noise import ExampleNoise, Noise
from oodgen.probes.bounds import Bounds
from oodgen.probes.codes import CodeNormality
from oodgen.probes.gradient import Gradient
from oodgen.probes.path import Path
from oodgen.probes.probe import Probe, probe_grad_mode

__all__ = ["measure", "measure_probes"]


class Folded(NamedTuple):
    """The noise of S samples of B examples for S * B examples with one sample each."""

    noise: Noise
    samples: int

    def uniform(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return self.noise.uniform(site, self._unfolded(shape), device).view(shape)

    def normal(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return self.noise.normal(site, self._unfolded(shape), device).view(shape)

    def _unfolded(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.samples, shape[1] // self.samples, *shape[2:])


def naive(model: Hierarchy, x: Tensor, noise: Noise, samples: int) -> Tensor:
    """L^{>k} (L, B) by its definition: `samples` forward passes of every image for each k."""
    y = model.observe(x, noise).repeat(samples, 1, 1, 1)
    values = [model.bounds(y, Folded(noise, samples), (k,), (1,))[0].elbo for k in range(model.depth)]
    return torch.stack([value.view(samples, len(x)).mean(0) for value in values])


def shared(model: Hierarchy, x: Tensor, noise: ExampleNoise, samples: int) -> Tensor:
    """L^{>k} (L, B) as computed by the probe `Bounds`."""
    return Bounds(samples, samples)(model, x, noise)["l"]


@torch.inference_mode()
def measure(bench: Bench) -> list[Table]:
    """One table, of the first model."""
    name, device = bench.models[0], bench.device.torch
    _, model, x = make_subject(name, bench.batch, device)
    bench.device.set_memory_format(model.eval())
    if not bench.quick:
        x = random_images(Bounds().batch(model), model.shape, device)
    rows, limit = [], 3e-2 if bench.device.precision == "bf16" else 1e-4
    for samples in (1, 10):
        full = min(len(x), Bounds(samples, samples).batch(model))
        for batch in dict.fromkeys((1, full)):
            part, noise = x[:batch], ExampleNoise(0, torch.arange(batch))
            with bench.device.autocast():
                calls = {f.__name__: partial(f, model, part, noise, samples) for f in (naive, shared)}
                expected, given = (call().float() for call in calls.values())
                timings = interleaved(calls, device, bench.effort._replace(seconds=bench.effort.seconds / 2))
            error = float(((given - expected).norm() / expected.norm()).cpu())
            if not error < limit:
                raise AssertionError(f"shared and naive scores differ by {error:.1e} at S={samples}, batch {batch}")
            slow, fast = timings["naive"], timings["shared"]
            gain = slow.median / fast.median
            rows.append((f"S={samples}, batch {batch}", batch / slow.median, batch / fast.median, gain, f"{error:.0e}"))
    notes = [
        f"{setting_name(bench.device)}; difference: relative norm of all L>k with the same noise, limit {limit:.0e}"
    ]
    header = ("examples", "naive images/s", "shared images/s", "x naive", "difference")
    return [Table(f"Scoring: all L>k of {name}", header, rows, notes)]


def measure_probes(bench: Bench) -> list[Table]:
    """One table: the cost of an example for each probe of each model, beside `Bounds` with 8 samples."""
    rows, device = [], bench.device.torch
    for name in bench.models:
        _, model, x = make_subject(name, bench.batch, device)
        bench.device.set_memory_format(model.eval())
        fitted: Any = Gradient(1)
        with probe_grad_mode(fitted, model):
            fitted = fitted.fit(model, [(x[:1], None, ExampleNoise(0, torch.arange(1)))])
        probes: dict[str, Any] = {
            "bounds": Bounds(2, 2) if bench.quick else Bounds(8, 8),
            "path": Path(),
            "codes": CodeNormality(),
            "gradient": fitted,
        }
        parts = {key: x[: probe.batch(model)] for key, probe in probes.items()}
        calls = {key: partial(_ask, bench, probe, model, parts[key]) for key, probe in probes.items()}
        timings = interleaved(calls, device, bench.effort._replace(seconds=bench.effort.seconds / 2))
        cost = {key: 1000 * timing.median / len(parts[key]) for key, timing in timings.items()}
        rows += [(f"{name}: {key}", value, value / cost["bounds"]) for key, value in cost.items()]
    notes = [setting_name(bench.device), "gradient: without its fit, which costs as much for each training example"]
    return [Table("Probes: cost of an example", ("probe", "ms/image", "x bounds"), rows, notes)]


def _ask(bench: Bench, probe: Probe, model: nn.Module, x: Tensor) -> None:
    with probe_grad_mode(probe, model), bench.device.autocast():
        probe(model, x, ExampleNoise(0, torch.arange(len(x))))
