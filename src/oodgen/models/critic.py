"""What a critic must offer to be scored: a value for each image, and no likelihood."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from oodgen.noise import Noise

__all__ = ["Critic"]


@runtime_checkable
class Critic(Protocol):
    """A model that values images, higher where they look like the data it was taught, and that can make some.

    Its values have neither unit nor zero: only their order means something.
    """

    shape: tuple[int, ...]

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        """Stored uint8 images (B, C, H, W) to the floats y that the critic sees."""
        ...

    def value(self, y: Tensor) -> Tensor:
        """The critic's value of each observed image, shape (B,); larger = more like the data."""
        ...

    def plausibility(self, y: Tensor, noise: Noise) -> Tensor:
        """The number that an adversary of this model would raise, (B,), differentiable in y: the value."""
        ...

    def generate(self, count: int, noise: Noise) -> Tensor:
        """Images in [0, 1] of `count` codes from the prior, shape (count, C, H, W), differentiable."""
        ...
