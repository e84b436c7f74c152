"""Training of a method with Lightning, in its own directory, resumable."""

import logging
import signal
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException

from oodgen.data.module import OODDataModule
from oodgen.errors import UserError
from oodgen.training.callback import Checkpoints
from oodgen.training.checkpoints import load_weights, read_checkpoint
from oodgen.training.curves import CurvesLogger
from oodgen.training.device import Device

__all__ = ["fit"]

log = logging.getLogger(__name__)


def fit(
    method: pl.LightningModule,
    data: OODDataModule,
    folder: Path,
    device: Device,
    options: Mapping[str, Any],
    callbacks: Iterable[Callback] = (),
    loggers: Sequence[Logger] = (),
    snapshots: Sequence[int] = (),
) -> dict[str, Any]:
    """Train to the end, starting from the last checkpoint in `folder` if there is one.

    Arguments:
        method: The method with its model.
        data: The data.
        folder: The training's directory, where metrics.csv and checkpoints/ are written.
        device: Precision, memory format, compilation.
        options: Arguments of Lightning's Trainer.
        callbacks: Further callbacks.
        loggers: Loggers that receive all rows of metrics.csv, from the first step on.
        snapshots: Epochs after which to save the weights.

    Returns:
        Total `seconds`, `steps` and `epochs`, of interrupted processes too, and the method's `training_summary`.

    Raises:
        UserError: the checkpoint to resume from is damaged; a Trainer option is unknown, trains nothing, or is not
            supported with two optimisers; `device.compile` for a method that does not call the forward pass.
        Diverged: see `Method`.
    """
    _check_trainer_options(options, method)
    if device.compile and not method.calls_forward:
        name = type(method).__name__
        raise UserError(f"device.compile compiles a model's forward pass, which {name} does not call; remove it")
    for path in folder.glob("hpc_ckpt_*.ckpt"):  # written by Lightning in a Slurm job, which would resume from it
        path.unlink()
    last = folder / "checkpoints" / "last.ckpt"
    resume = last if last.is_file() else None
    _silence_lightning()
    terminal = sys.stderr.isatty()
    monitor = f"val/{method.monitor}" if method.selects_best else None
    saver = Checkpoints(folder / "checkpoints", monitor=monitor, epochs=snapshots)
    bar: list[Callback] = [TQDMProgressBar(refresh_rate=20)] if terminal else [_ProgressLines()]
    try:
        trainer = pl.Trainer(
            **device.trainer(),
            **options,
            plugins=[LightningEnvironment()],  # otherwise Lightning uses the tasks of a Slurm job and requeues it
            logger=CurvesLogger(folder / "metrics.csv", loggers),
            callbacks=[*bar, *callbacks, saver],
            enable_checkpointing=False,
            enable_progress_bar=terminal,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,  # the method itself logs rarely
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise UserError(f"trainer: {str(error).split('() ')[-1]}; see conf/trainer for the options") from error
    device.set_memory_format(method)
    data.setup()
    if resume is None:
        method.initialise(data.train_dataloader().batch(0))  # type: ignore[operator]
    else:
        # Lightning does it again, with less helpful errors
        load_weights(method.model, resume)  # type: ignore[arg-type]
        epoch = read_checkpoint(resume)
        log.info("resuming at step %d (epoch %d)", epoch["global_step"], epoch["epoch"])
    if device.compile:
        method.model.compile()  # type: ignore[union-attr, operator]
    saver.start = time.perf_counter()
    try:
        trainer.fit(method, datamodule=data, ckpt_path=resume)
    except SIGTERMException:
        # Lightning would exit with code 0
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as error:
        if error.code == 1 and trainer.interrupted:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        raise
    steps = trainer.global_step
    return {
        "seconds": saver.spent,
        "steps": steps,
        "epochs": round(steps / max(1, trainer.num_training_batches), 3),
        **method.training_summary(),  # type: ignore[operator]
    }


def _check_trainer_options(options: Mapping[str, Any], method: pl.LightningModule) -> None:
    """Raise UserError for options that Lightning would ignore, or reject late."""
    clip, turns = options.get("gradient_clip_val"), not method.automatic_optimization
    if turns and clip:
        advice = "use method.clip" if hasattr(method, "clip") else "remove it"
        raise UserError(f"trainer.gradient_clip_val is not supported with two optimisers; {advice}")
    if turns and options.get("accumulate_grad_batches", 1) != 1:
        raise UserError(
            "trainer.accumulate_grad_batches is not supported with two optimisers; increase data.batch_size"
        )


class _ProgressLines(Callback):
    """One log line at each validation, instead of a progress bar, if stderr is no terminal."""

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.start, self.step = time.perf_counter(), trainer.global_step

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        steps = trainer.global_step - self.step
        batch = trainer.datamodule.batch_size  # type: ignore[attr-defined]
        rate = steps * batch / (time.perf_counter() - self.start)
        monitor: str = module.monitor  # type: ignore[assignment]
        value = trainer.callback_metrics.get(f"val/{monitor}")
        metric = ""
        if value is not None:
            words = f"{float(value):.2f} nats" if monitor in ("bound", "log_py") else f"{float(value):.4g}"
            metric = f"validation {'log p(y|x)' if monitor == 'log_py' else monitor.replace('_', ' ')} {words}, "
        log.info("step %d: %s%.0f images/s", trainer.global_step, metric, rate)


def _silence_lightning() -> None:
    """Suppress Lightning's tips, and warnings about deliberate choices."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.accelerators.cuda").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*`IterableDataset` has `__len__` defined.*",
        ".*Checkpoint directory .* exists.*",
        ".*weights_only.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*`Trainer` was configured with.*",
        ".*Experiment logs directory.*",
        ".*GPU available but not used.*",
    ):
        warnings.filterwarnings("ignore", message=message)
