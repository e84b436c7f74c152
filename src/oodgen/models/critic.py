"""The interface of critics: a real value D(x) for each image, and no likelihood."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from oodgen.noise import Noise

__all__ = ["Critic"]


@runtime_checkable
class Critic(Protocol):
    """A model with a real-valued critic D(x), larger for images like the training data, and a generator of images.

    The values have no unit; only their order is meaningful.
    """

    shape: tuple[int, ...]

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        """Stored uint8 images (B, C, H, W) to floats y, the critic's input."""
        ...

    def value(self, y: Tensor) -> Tensor:
        """The critic's value of each observed image, shape (B,); larger = more like the data."""
        ...

    def plausibility(self, y: Tensor, noise: Noise) -> Tensor:
        """See `oodgen.models.density.Attackable`: the critic's value, (B,)."""
        ...

    def generate(self, count: int, noise: Noise) -> Tensor:
        """Images in [0, 1] from `count` codes z ~ p(z), shape (count, C, H, W), differentiable."""
        ...
