"""Time of a joint step of an ensemble, sequential and stacked, against separate trainings of its members."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from oodgen.bench.subject import Bench, random_images, setting_name
from oodgen.bench.timing import Table, interleaved
from oodgen.config.instantiate import build
from oodgen.data.resident import Batch
from oodgen.methods.ensemble import GenerativeEnsemble
from oodgen.methods.method import Method
from oodgen.methods.together import Stacked, Step, sequential
from oodgen.runs.locations import config_dir

__all__ = ["measure"]

MODEL, SIZE = "vae_grey", 5
MEMBER = ("method.member.warmup=0", "method.member.free_bits=null")


@final
class JointStep:
    """Forward, backward and optimiser step of all members."""

    def __init__(self, bench: Bench, method: GenerativeEnsemble, step: Callable[[Sequence[Batch]], Step]) -> None:
        self.bench, self.method, self.step = bench, method, step
        self.optimizer = method.make_optimizer(method.parameters())

    def __call__(self, batches: Sequence[Batch]) -> None:
        with self.bench.device.autocast():
            gradients = self.step(batches).gradients
        for member, member_gradients in zip(self.method.methods, gradients, strict=True):
            learnt = (p for p in member.model.parameters() if p.requires_grad)
            for parameter, gradient in zip(learnt, member_gradients, strict=True):
                parameter.grad = gradient
        self.optimizer.step()


@final
class SeparateSteps:
    """Forward, backward and optimiser steps of single trainings, one after the other."""

    def __init__(self, bench: Bench, method: GenerativeEnsemble) -> None:
        self.bench = bench
        self.trainings = [(m, m.make_optimizer(m.model.parameters())) for m in method.methods]

    def __call__(self, batches: Sequence[Batch]) -> None:
        for (method, optimizer), batch in zip(self.trainings, batches, strict=True):
            with self.bench.device.autocast():
                loss, _ = method.loss(batch, method.noise(batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def measure(bench: Bench) -> list[Table]:
    """One table, for the paper's number of members, at the batch size and a quarter of it."""
    rows: list[Sequence[Any]] = []
    verdicts = []
    for size in (bench.batch, max(1, bench.batch // 4)):
        calls = _calls(bench, size)
        timings = interleaved(calls, bench.device.torch, bench.effort)
        apart = timings["separate"].median
        for name, t in timings.items():
            rows.append((name, size, 1e3 * t.median, SIZE * size / t.median, apart / t.median))
        fastest = min(("sequential", "stacked"), key=lambda name: timings[name].median)
        verdicts.append(f"{fastest} is the faster way at batch {size}")
    auto = "stacked" if bench.device.accelerator == "gpu" else "sequential"
    notes = [f"method.how=auto takes {auto} here; {', '.join(verdicts)}"]
    title = f"Ensemble: a step of {SIZE} members of {MODEL}, {setting_name(bench.device)}"
    return [Table(title, ("variant", "batch", "ms", "member-images/s", "x separate"), rows, notes)]


def _calls(bench: Bench, size: int) -> dict[str, Callable[[], None]]:
    """A step of each variant, with its own models, on the same batches."""
    made = [_method(bench) for _ in range(3)]
    x = random_images(SIZE * size, made[0].model.shape, bench.device.torch).unflatten(0, (SIZE, size))
    batches = Batch(x, torch.arange(SIZE * size).unflatten(0, (SIZE, size)), 1).members()
    for method in made:
        for member, batch in zip(method.methods, batches, strict=True):
            member.initialise(batch)
    apart, turns, stack = made
    members: Sequence[Method] = turns.methods
    return {
        "separate": partial(SeparateSteps(bench, apart), batches),
        "sequential": partial(JointStep(bench, turns, partial(sequential, members)), batches),
        "stacked": partial(JointStep(bench, stack, Stacked(stack.methods)), batches),
    }


def _method(bench: Bench) -> GenerativeEnsemble:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        options = ["data=fashion_mnist_mnist", f"model={MODEL}", "method=ensemble", f"method.size={SIZE}", *MEMBER]
        config = OmegaConf.to_container(compose("run", options).method, resolve=True)
    method: GenerativeEnsemble = build(config, "method")
    bench.device.set_memory_format(method.to(bench.device.torch))
    return method
