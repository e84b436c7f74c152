r"""Noise as an explicit argument: the source of every random number of a model.

Training draws from torch's global generator, which the method seeds with (seed, step). Evaluation draws from a
counter-based generator instead: the number at (seed, site, example, sample, element) is a hash of these five integers.
An example's noise is thus independent of the batch size, the device, the chunking of samples and the other levels
computed in the same pass. A site is the name of a random variable, as "q1" or "p2"; the same site gives the same
numbers in every bound, so that `bounds` can be tested for equality with a direct implementation of its definition.
"""

import hashlib
import math
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["ExampleNoise", "MedianNoise", "Noise", "RandomNoise", "member_seed"]


class Noise(Protocol):
    """Draws of shape (S, B, *event): S samples for each of B examples."""

    def uniform(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Independent numbers in the open interval (0, 1)."""
        ...

    def normal(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Independent standard normal numbers."""
        ...


class RandomNoise:
    """Noise from torch's global generator; sites are ignored."""

    def uniform(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.rand(shape, device=device)

    def normal(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.randn(shape, device=device)


class MedianNoise:
    """Deterministic noise: each draw is the median of its distribution, a Gaussian sample thus its mean."""

    def uniform(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.full(shape, 0.5, device=device)

    def normal(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.zeros(shape, device=device)


# Odd 64-bit constants of the splitmix64 generator (Steele, Lea, Flood 2014), as signed integers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX2 = 0x94D049BB133111EB - 2**64


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own is arithmetic on signed integers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The splitmix64 finaliser: a bijection of 64-bit integers whose output bits look independent."""
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


class ExampleNoise:
    """Noise that is a function of (seed, site, example, sample, element).

    Arguments:
        seed: The evaluation seed.
        index: The examples' indices in their data set, (B,), int64.
        first_sample: Index of the first sample; S samples can be drawn in chunks that start at 0, S1, S1 + S2, ...
    """

    def __init__(self, seed: int, index: Tensor, first_sample: int = 0) -> None:
        self.seed, self.index, self.first_sample = seed, index, first_sample

    def _bits(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        samples, batch, *event = shape
        if batch != len(self.index):
            raise ValueError(f"noise of {len(self.index)} examples cannot have the batch size {batch}")
        name = hashlib.blake2b(f"{self.seed}/{site}".encode(), digest_size=8)
        key = int.from_bytes(name.digest(), "big", signed=True)
        example = _mix(self.index.to(device) * _GOLDEN + key)
        sample = torch.arange(self.first_sample, self.first_sample + samples, device=device).unsqueeze(1)
        pair = _mix(example + sample * _GOLDEN)
        element = torch.arange(1, math.prod(event) + 1, device=device) * _GOLDEN
        return _mix(pair.unsqueeze(-1) + element).view(shape)

    def uniform(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        # 23 bits: the largest value, 1 - 2^-24, is below one in float32
        return (_shift(self._bits(site, shape, device), 41).float() + 0.5) * 2.0**-23

    def normal(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return math.sqrt(2) * torch.erfinv(2 * self.uniform(site, shape, device) - 1)


def member_seed(seed: int, member: int) -> int:
    """The seed of member 1, 2, ... of an ensemble, for its weights, batches and noise, in training and evaluation.

    The members of an ensemble with seed s are the single models with seeds 1000 s, 1000 s + 1, ...
    """
    return 1000 * seed + member - 1
