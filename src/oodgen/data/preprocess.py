"""Preprocessing of images, the same in training, evaluation and scoring: conversion to grey and resizing."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["TestSet", "preprocess"]


class TestSet(NamedTuple):
    """A preprocessed set: x uint8 (N, C, H, W) or float32 (N, D), name, origin (split or part), hash, labels (N,)."""

    x: np.ndarray
    name: str
    origin: str
    sha256: str
    y: np.ndarray | None = None


def preprocess(x: np.ndarray, grey: bool, size: tuple[int, int] | None) -> np.ndarray:
    """Convert images (N, C, H, W), uint8, to grey (mean over channels) and resize them; rows (N, D) are unchanged."""
    if x.ndim == 4 and grey and x.shape[1] != 1:
        x = np.asarray(x).mean(1, keepdims=True).round().astype(np.uint8)
    if x.ndim == 4 and size is not None and x.shape[2:] != size:
        x = np.concatenate([_resize(part, size) for part in np.array_split(x, -(-len(x) // 4096))])
    return x


def _resize(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resizing with antialiasing, rounded to uint8."""
    value = F.interpolate(torch.tensor(x).float(), size=size, mode="bilinear", antialias=True, align_corners=False)
    return value.round().clamp(0, 255).to(torch.uint8).numpy()
