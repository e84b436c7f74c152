"""Grey and resize: what every set goes through, for training, evaluation and whatever is scored later."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["TestSet", "preprocess"]


class TestSet(NamedTuple):
    """A set as it is scored: its examples after preprocessing, and what a table must say of it."""

    x: np.ndarray
    name: str
    origin: str
    sha256: str
    y: np.ndarray | None = None


def preprocess(x: np.ndarray, grey: bool, size: tuple[int, int] | None) -> np.ndarray:
    """Grey and resize images (N, C, H, W), the same for every role and for whatever is scored later."""
    if x.ndim == 4 and grey and x.shape[1] != 1:
        x = np.asarray(x).mean(1, keepdims=True).round().astype(np.uint8)
    if x.ndim == 4 and size is not None and x.shape[2:] != size:
        x = np.concatenate([_resize(part, size) for part in np.array_split(x, -(-len(x) // 4096))])
    return x


def _resize(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with antialiasing, on the uint8 scale."""
    value = F.interpolate(torch.tensor(x).float(), size=size, mode="bilinear", antialias=True, align_corners=False)
    return value.round().clamp(0, 255).to(torch.uint8).numpy()
