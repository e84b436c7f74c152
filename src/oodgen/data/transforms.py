"""Out sets made from the inlier's test split: flips of it, and noise of its shape."""

import hashlib

import numpy as np

from oodgen.data.catalog import Transform

__all__ = ["gaussian_noise", "hflip", "uniform_noise", "vflip"]


def _generator(name: str, seed: int) -> np.random.Generator:
    # the name enters, or uniform and Gaussian noise of one seed would be functions of each other
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")])


def hflip() -> Transform:
    """Left and right exchanged."""
    return Transform("hflip", lambda x, seed: np.ascontiguousarray(x[..., ::-1]))


def vflip() -> Transform:
    """Top and bottom exchanged."""
    return Transform("vflip", lambda x, seed: np.ascontiguousarray(x[..., ::-1, :]))


def uniform_noise() -> Transform:
    """Every pixel uniform on 0 to 255."""

    def apply(x: np.ndarray, seed: int) -> np.ndarray:
        return _generator("uniform", seed).integers(0, 256, x.shape, np.uint8)

    return Transform("uniform_noise", apply)


def gaussian_noise(mean: float = 0.5, sd: float = 0.25) -> Transform:
    r"""Every pixel from $N(\text{mean}, \text{sd}^2)$ on the scale where white is 1, clipped to [0, 1].

    Arguments:
        mean: Mean before clipping.
        sd: Standard deviation before clipping.
    """

    def apply(x: np.ndarray, seed: int) -> np.ndarray:
        noise = _generator("gaussian", seed).standard_normal(x.shape, np.float32)
        return np.rint(255 * (mean + sd * noise)).clip(0, 255).astype(np.uint8)

    return Transform("gaussian_noise", apply)
