"""Out sets made from the inlier's test split: flips of it, and noise of its shape."""

import hashlib

import numpy as np

from oodgen.data.catalog import Transform
from oodgen.options import NonNegative

__all__ = ["gaussian_noise", "hflip", "uniform_noise", "vflip"]


def _generator(name: str, seed: int) -> np.random.Generator:
    # the name is part of the seed, so that uniform and Gaussian noise are independent
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")])


def hflip() -> Transform:
    """Horizontal flip."""
    return Transform("hflip", lambda x, seed: np.ascontiguousarray(x[..., ::-1]))


def vflip() -> Transform:
    """Vertical flip."""
    return Transform("vflip", lambda x, seed: np.ascontiguousarray(x[..., ::-1, :]))


def uniform_noise() -> Transform:
    """Every sub-pixel uniform on 0..255."""

    def apply(x: np.ndarray, seed: int) -> np.ndarray:
        return _generator("uniform", seed).integers(0, 256, x.shape, np.uint8)

    return Transform("uniform_noise", apply)


def gaussian_noise(mean: float = 0.5, sd: NonNegative = 0.25) -> Transform:
    r"""Every sub-pixel from $\mathcal N(\text{mean}, \text{sd}^2)$ clipped to [0, 1], where white is 1.

    Arguments:
        mean: Mean before clipping.
        sd: Standard deviation before clipping.
    """

    def apply(x: np.ndarray, seed: int) -> np.ndarray:
        noise = _generator("gaussian", seed).standard_normal(x.shape, np.float32)
        return np.rint(255 * (mean + sd * noise)).clip(0, 255).astype(np.uint8)

    return Transform("gaussian_noise", apply)
