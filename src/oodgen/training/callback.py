"""The checkpoint callback: last (to resume from), best, and chosen epochs."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from oodgen.data.resident import Batch
from oodgen.runs.files import atomic_path
from oodgen.training.checkpoints import save_weights

__all__ = ["Checkpoints"]


class Checkpoints(Callback):
    """Saves last.ckpt periodically and after each epoch, best.ckpt, and epochN.ckpt of chosen epochs.

    Arguments:
        folder: Folder of the checkpoints.
        seconds: Time between saves of last.ckpt within an epoch.
        monitor: Name of the validation metric that selects the best checkpoint, larger = better; None for no best.
        epochs: Epochs, counted from 1, after which to save the weights.
    """

    def __init__(
        self, folder: Path, seconds: float = 30, monitor: str | None = "val/bound", epochs: Sequence[int] = ()
    ) -> None:
        self.folder, self.seconds, self.monitor, self.epochs = folder, seconds, monitor, tuple(epochs)
        self.best, self.step, self.saved_at = float("-inf"), 0, time.monotonic()
        self.before, self.start = 0.0, time.perf_counter()

    @property
    def spent(self) -> float:
        """Seconds of the training so far, in all processes that continued it, up to the checkpoint of each."""
        return self.before + time.perf_counter() - self.start

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "step": self.step, "spent": self.spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.step = state_dict["best"], state_dict["step"]
        self.before = state_dict.get("spent", 0.0)  # earlier checkpoints do not say

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Lightning loses the loader's state if a learning-rate schedule asked for the number of steps before
        trainer.train_dataloader.load_state_dict({"step": self.step})  # type: ignore[union-attr]

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.step = batch.step + 1
        # after the last batch of an epoch save only after validation, which a resumed run would otherwise skip
        if time.monotonic() - self.saved_at >= self.seconds and not trainer.is_last_batch:
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        value = None if self.monitor is None else trainer.callback_metrics.get(self.monitor)
        if value is not None and float(value) > self.best:
            self.best = float(value)
            self._save_weights(trainer, "best")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 in self.epochs:
            self._save_weights(trainer, f"epoch{trainer.current_epoch + 1}")
        self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        with atomic_path(self.folder / "last.ckpt") as temporary:
            trainer.save_checkpoint(temporary, False)
        self.saved_at = time.monotonic()

    def _save_weights(self, trainer: pl.Trainer, name: str) -> None:
        module = trainer.lightning_module
        content = {
            "state_dict": module.state_dict(),
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
        }
        # weight-averaging callbacks replace the weights here; Lightning's weights_only would not call them
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            callback.on_save_checkpoint(trainer, module, content)
        module.on_save_checkpoint(content)
        kept = {key: content[key] for key in ("state_dict", "epoch", "global_step")}
        save_weights(self.folder / f"{name}.ckpt", kept)
