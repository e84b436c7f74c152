"""Checkpoint files: atomic writing, lookup by name, and reading without executing code."""

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oodgen.errors import UserError
from oodgen.runs.files import atomic_path

__all__ = ["find_checkpoint", "load_weights", "read_checkpoint", "save_weights"]


def save_weights(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint for scoring (not for resuming): `state_dict`, `epoch` and `global_step`."""
    bytes_ = io.BytesIO()  # torch.save to a file hides that the disk is full
    torch.save(content, bytes_)
    with atomic_path(path) as temporary:
        temporary.write_bytes(bytes_.getbuffer())


def find_checkpoint(folder: Path, name: str) -> Path:
    """The path of a checkpoint ("last", "best", "epoch3") in a training's directory.

    Raises:
        UserError: it does not exist; the message lists those that do.
    """
    path = folder / "checkpoints" / f"{name}.ckpt"
    if not path.is_file():
        there = sorted(other.stem for other in path.parent.glob("*.ckpt"))
        snapshot = re.fullmatch(r"epoch[1-9]\d*", name)
        advice = f"; snapshots=[{name[5:]}] retrain=true saves it" if snapshot else "; choose last, best or epochN"
        raise UserError(f"no checkpoint {name!r} in {path.parent}; available: {', '.join(there) or 'none'}{advice}")
    return path


def load_weights(module: nn.Module, path: Path, prefix: str = "model.") -> None:
    """Load a checkpoint's weights into a model, without executing code in the file.

    Raises:
        UserError: the file is damaged, contains code, or has weights of another architecture.
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
    """The content of a checkpoint, on the CPU; only tensors and plain values are accepted.

    Raises:
        UserError: the file is damaged or contains other objects.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch does not compress: what would fill the memory is not its own
                if sum(item.file_size for item in archive.infolist()) > path.stat().st_size:
                    raise ValueError("compressed")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError) as error:
        raise UserError(f"cannot read {path}: {error}; try again, or choose another run") from error
    except Exception as error:
        # torch raises many types here, and its message on hostile content teaches how to disable the check
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        why = f"holds {foreign[1]}, which could run code" if foreign else "is damaged or no checkpoint"
        raise UserError(f"{path} {why}; it was not loaded. Delete it and repeat the command") from error
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(_is_plain(name, value) for name, value in weights.items()):
        raise UserError(f"{path} is no checkpoint of oodgen; it was not loaded. Delete it and repeat the command")
    return content


def _is_plain(name: Any, value: Any) -> bool:
    """Whether an entry is a dense tensor with a name."""
    dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta and not value.is_quantized
    return dense and isinstance(name, str)
