"""Overhead of training beside the model: Lightning's loop, data loading, logging, checks for NaN, checkpoints."""

import copy
import math
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, final

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from oodgen.bench.subject import Bench, Step, make_subject
from oodgen.bench.timing import Effort, Table, clock
from oodgen.data.catalog import Dataset
from oodgen.data.module import OODDataModule
from oodgen.data.resident import Batch
from oodgen.methods.likelihood import MaximumLikelihood
from oodgen.methods.method import LOG_EVERY
from oodgen.runs.files import atomic_path
from oodgen.training.callback import Checkpoints
from oodgen.training.device import Device
from oodgen.training.fit import fit

__all__ = ["measure"]

WARM_UP = 2  # pairs that are not counted


class Cost(NamedTuple):
    """Seconds of training steps and of the same bare steps, each averaged over `steps`; whether one of them logged; and
    the seconds of a checkpoint."""

    steps: int
    real: list[float]
    bare: list[float]
    logged: list[bool]
    checkpoint: float

    @property
    def outside(self) -> list[float]:
        return [real - bare for real, bare in zip(self.real, self.bare, strict=True)]

    @property
    def typical(self) -> float:
        """Overhead in seconds of a step without logging."""
        return median(out for out, logged in zip(self.outside, self.logged, strict=True) if not logged)

    @property
    def logging(self) -> float:
        """Additional seconds of a step with logging, divided by the steps between."""
        extra = [out - self.typical for out, logged in zip(self.outside, self.logged, strict=True) if logged]
        return max(0.0, median(extra)) * self.steps / LOG_EVERY if extra else math.nan


@final
class AlternatingSteps(Callback):
    """After every few training steps, times the same steps bare, on a copy of the model and the same batches."""

    def __init__(self, setting: Device, steps: int, effort: Effort) -> None:
        self.setting, self.steps, self.effort = setting, steps, effort
        self.batches: list[Batch] = []
        self.real: list[float] = []
        self.bare: list[float] = []
        self.logged: list[bool] = []
        self.checkpoint = math.nan

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, MaximumLikelihood)
        self.step = Step(copy.deepcopy(module.model), module.make_optimizer, self.setting)
        self.begun = self.start = clock(self.setting.torch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(batch)
        if len(self.batches) < self.steps:
            return
        middle = clock(self.setting.torch)
        for kept in self.batches:
            self.step(kept.x)
        end = clock(self.setting.torch)
        self.real.append((middle - self.start) / self.steps)
        self.bare.append((end - middle) / self.steps)
        self.logged.append(any(kept.step % LOG_EVERY == 0 for kept in self.batches))
        self.batches.clear()
        if end - self.begun > self.effort.seconds and len(self.bare) >= 2 * self.effort.least + WARM_UP:
            trainer.should_stop = True
        self.start = clock(self.setting.torch)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        start = clock(self.setting.torch)
        with tempfile.TemporaryDirectory() as folder, atomic_path(Path(folder) / "last.ckpt") as temporary:
            trainer.save_checkpoint(temporary, weights_only=False)
        self.checkpoint = clock(self.setting.torch) - start


def measure(bench: Bench) -> list[Table]:
    """One table, for the first and the last model; the overhead is more visible in the shorter steps of the latter."""
    costs = {name: _cost(bench, name) for name in dict.fromkeys((bench.models[0], bench.models[-1]))}
    step = median(costs[bench.models[0]].bare)
    between = Checkpoints(Path()).seconds
    rows = []
    for name, cost in costs.items():
        bare, typical = median(cost.bare), cost.typical
        numbers = [1e3 * bare, 1e3 * typical, f"{typical / bare:.1%}", 1e3 * cost.logging, 1e3 * cost.checkpoint]
        rows.append((name, *numbers, len(cost.bare)))
    small = costs[bench.models[-1]]
    saving = costs[bench.models[0]].checkpoint / between
    total = (small.typical + (0 if math.isnan(small.logging) else small.logging)) / step + saving
    notes = [
        f"outside: median over pairs of a real step minus the same bare; a checkpoint is written every {between:g} s",
        f"the milliseconds of {bench.models[-1]} and a checkpoint are {total:.1%} of a step of {bench.models[0]}",
    ]
    header = ("model", "bare step ms", "outside ms", "outside", "logging ms/step", "checkpoint ms", "pairs")
    return [Table(f"Training loop: oodgen.training.fit.fit, batch {bench.batch}", header, rows, notes)]


def _cost(bench: Bench, name: str) -> Cost:
    method, model, _ = make_subject(name, bench.batch, bench.device.torch)
    gpu = bench.device.accelerator == "gpu"
    steps = 10 if gpu else 1  # several steps, since a GPU works asynchronously
    pairs = 8 * bench.effort.most
    count = int((steps * pairs + 2) * bench.batch / 0.9)

    def read(root: Path, split: str) -> tuple[np.ndarray, None]:
        return np.random.default_rng(0).integers(0, 256, (count, *model.shape), dtype=np.uint8), None

    dataset = Dataset("bench", model.shape, {}, "", "", read)
    watch = AlternatingSteps(bench.device, steps, bench.effort)
    options = {"max_steps": steps * pairs, "limit_val_batches": 0, "max_epochs": 1}
    with tempfile.TemporaryDirectory() as folder:
        data = OODDataModule(dataset, {}, root=folder, batch_size=bench.batch)
        fit(method, data, Path(folder) / "run", bench.device, options, [watch])
    return Cost(steps, watch.real[WARM_UP:], watch.bare[WARM_UP:], watch.logged[WARM_UP:], watch.checkpoint)
