"""Training rate for each precision, memory format and, optionally, compilation."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from oodgen.bench.subject import Bench, Step, make_subject, precision_settings, setting_name
from oodgen.bench.timing import Table, clock, interleaved

__all__ = ["measure"]


def measure(bench: Bench) -> list[Table]:
    """One table for each model."""
    return [_model(bench, name) for name in bench.models]


def _model(bench: Bench, name: str) -> Table:
    method, model, x = make_subject(name, bench.batch, bench.device.torch)
    variants: dict[str, Callable[[], Any]] = {
        label: partial(Step(copy.deepcopy(model), method.make_optimizer, setting), x)
        for label, setting in precision_settings(bench.device).items()
    }
    notes = []
    if bench.compile:
        compiled = replace(bench.device, compile=True)
        step = Step(copy.deepcopy(model), method.make_optimizer, compiled)
        start = clock(bench.device.torch)
        step(x)
        notes.append(f"compiling took {clock(bench.device.torch) - start:.0f} s")
        variants[setting_name(compiled)] = partial(step, x)
    timings = interleaved(variants, bench.device.torch, bench.effort)
    base = next(iter(timings.values()))
    rows = [
        (label, bench.batch / t.median, base.median / t.median, bench.batch / t.best, base.best / t.best)
        for label, t in timings.items()
    ]
    eager = {label: t for label, t in timings.items() if "compiled" not in label}
    fastest, chosen = min(eager, key=lambda label: eager[label].best), setting_name(bench.device)
    gain = eager[chosen].best / eager[fastest].best
    verdict = "the fastest here" if fastest == chosen else f"{fastest} was {gain:.2f} times as fast in its best round"
    notes.insert(0, f"default: {chosen}; {verdict}; {len(base.seconds)} rounds")
    parameters = sum(p.numel() for p in model.parameters())
    title = f"Training: {name} ({parameters:,} parameters), batch {bench.batch}"
    return Table(title, ("setting", "images/s", "x fp32", "best", "x fp32 best"), rows, notes)
