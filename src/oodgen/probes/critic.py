"""The critic's value of each example."""

from dataclasses import dataclass

from torch import Tensor

from oodgen.models.critic import Critic
from oodgen.noise import ExampleNoise

__all__ = ["CriticValue"]


@dataclass(frozen=True)
class CriticValue:
    """Evidence: `d` (N,), the critic's value D(x); larger = more like the data.

    Source: Choi et al. 2019, table 2 (papers/generative_ensembles, section 1).
    """

    needs = Critic

    def batch(self, model: Critic) -> int:
        return 200

    def __call__(self, model: Critic, x: Tensor, noise: ExampleNoise) -> dict[str, Tensor]:
        return {"d": model.value(model.observe(x, noise)).float()}
