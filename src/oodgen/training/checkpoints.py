"""Checkpoints of a training: written whole or not at all, the last one to resume from, the best and some to score."""

import io
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from oodgen.data.resident import Batch
from oodgen.errors import UserError
from oodgen.runs.files import whole

__all__ = ["Checkpoints", "find", "load_weights", "read_checkpoint", "save_weights"]


class Checkpoints(Callback):
    """Saves last.ckpt every so often and at each epoch's end, best.ckpt, and epochN.ckpt of chosen epochs.

    Arguments:
        folder: Where.
        seconds: Time between saves of last.ckpt within an epoch.
        monitor: What makes a checkpoint the best, larger = better; None where nothing does.
        epochs: Epochs after which to keep a copy of the weights, from 1.
    """

    def __init__(
        self, folder: Path, seconds: float = 30, monitor: str | None = "val/bound", epochs: Sequence[int] = ()
    ) -> None:
        self.folder, self.seconds, self.monitor, self.epochs = folder, seconds, monitor, tuple(epochs)
        self.best, self.step, self.saved_at = float("-inf"), 0, time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.step = state_dict["best"], state_dict["step"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Lightning forgets where its loader stood if a learning rate's course asked for the number of steps before
        trainer.train_dataloader.load_state_dict({"step": self.step})  # type: ignore[union-attr]

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.step = batch.step + 1
        # the last batch of an epoch is saved after its validation, or a resumed run would skip that validation
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
        with whole(self.folder / "last.ckpt") as temporary:
            trainer.save_checkpoint(temporary, False)
        self.saved_at = time.monotonic()

    def _save_weights(self, trainer: pl.Trainer, name: str) -> None:
        module = trainer.lightning_module
        content = {
            "state_dict": module.state_dict(),
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
        }
        # an averaging callback puts its average in the place of the weights; Lightning's weights_only would not ask it
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            callback.on_save_checkpoint(trainer, module, content)
        module.on_save_checkpoint(content)
        kept = {key: content[key] for key in ("state_dict", "epoch", "global_step")}
        save_weights(self.folder / f"{name}.ckpt", kept)


def save_weights(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint to score but not to resume from: `state_dict`, `epoch` and `global_step`."""
    bytes_ = io.BytesIO()  # torch writing to a full disk hides that it is full
    torch.save(content, bytes_)
    with whole(path) as temporary:
        temporary.write_bytes(bytes_.getbuffer())


def find(folder: Path, name: str) -> Path:
    """The checkpoint of that name ("last", "best", "epoch3") in a training's directory.

    Raises:
        UserError: it is not there; lists those that are.
    """
    path = folder / "checkpoints" / f"{name}.ckpt"
    if not path.is_file():
        there = sorted(other.stem for other in path.parent.glob("*.ckpt"))
        snapshot = re.fullmatch(r"epoch[1-9]\d*", name)
        mend = f"; snapshots=[{name[5:]}] retrain=true makes it" if snapshot else "; name last, best or epochN"
        raise UserError(f"no checkpoint {name!r} in {path.parent}; there are: {', '.join(there) or 'none'}{mend}")
    return path


def load_weights(module: nn.Module, path: Path, prefix: str = "model.") -> None:
    """Load a checkpoint's weights into a model; nothing in the file is executed.

    Raises:
        UserError: the file is damaged or hostile, or its weights are of another architecture.
    """
    state = read_checkpoint(path)["state_dict"]
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    mine = module.state_dict()
    for name in [*mine, *weights]:
        if name not in weights or name not in mine:
            whose = "the model has" if name in mine else "the checkpoint has"
            raise UserError(
                f"{path} is of another architecture: only {whose} {name}; use the config it was trained with"
            )
        if mine[name].shape != weights[name].shape:
            have, want = tuple(weights[name].shape), tuple(mine[name].shape)
            raise UserError(
                f"{path} is of another architecture: {name} is {have}, the model needs {want}; "
                "use the config it was trained with"
            )
    module.load_state_dict(weights)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU; refuses anything but tensors and plain values.

    Raises:
        UserError: the file is damaged, or holds something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises many types here, and its message on hostile content teaches how to disable the check
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        why = f"holds {foreign[1]}, which could run code" if foreign else "is damaged or no checkpoint"
        raise UserError(f"{path} {why}; it was not loaded. Delete it and repeat the command") from error
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path} is no checkpoint of oodgen; it was not loaded. Delete it and repeat the command")
    return content
