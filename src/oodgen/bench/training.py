"""Training images/s of each precision, memory format and, if asked for, compilation."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from oodgen.bench.subject import Bench, Step, name_of, settings, subject
from oodgen.bench.timing import Table, clock, in_turns

__all__ = ["measure"]


def measure(bench: Bench) -> list[Table]:
    """One table for each model."""
    return [_model(bench, name) for name in bench.models]


def _model(bench: Bench, name: str) -> Table:
    method, model, x = subject(name, bench.batch, bench.device.torch)
    variants: dict[str, Callable[[], Any]] = {
        label: partial(Step(copy.deepcopy(model), method.make_optimizer, setting), x)
        for label, setting in settings(bench.device).items()
    }
    notes = []
    if bench.compile:
        compiled = replace(bench.device, compile=True)
        step = Step(copy.deepcopy(model), method.make_optimizer, compiled)
        start = clock(bench.device.torch)
        step(x)
        notes.append(f"compiling took {clock(bench.device.torch) - start:.0f} s")
        variants[name_of(compiled)] = partial(step, x)
    timings = in_turns(variants, bench.device.torch, bench.effort)
    base = next(iter(timings.values()))
    rows = [
        (label, bench.batch / t.median, base.median / t.median, bench.batch / t.best, base.best / t.best)
        for label, t in timings.items()
    ]
    eager = {label: t for label, t in timings.items() if "compiled" not in label}
    fastest, chosen = min(eager, key=lambda label: eager[label].best), name_of(bench.device)
    gain = eager[chosen].best / eager[fastest].best
    verdict = "the fastest here" if fastest == chosen else f"{fastest} was {gain:.2f} times as fast in its best round"
    notes.insert(0, f"chosen by default: {chosen}; {verdict}; {len(base.seconds)} rounds")
    parameters = sum(p.numel() for p in model.parameters())
    title = f"Training: {name} ({parameters:,} parameters), batch {bench.batch}"
    return Table(title, ("setting", "images/s", "x fp32", "best", "x fp32 best"), rows, notes)
