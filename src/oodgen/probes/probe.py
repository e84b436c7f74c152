"""What a probe is: an expensive question to a model, asked once of every example."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from oodgen.noise import ExampleNoise

__all__ = ["Evidence", "Probe"]

# Named per-example numbers, float32; the last axis is the example.
Evidence = Mapping[str, Tensor]


class Probe(Protocol):
    """A question to (model, x); its options are its constructor's arguments.

    One that needs a reference has `fit(model, examples)`, with the examples that were trained on as batches of
    (x, labels, noise), and returns itself with the tensors `fitted`; a detector takes these from the run.
    """

    needs: type  # the Protocol or class that the model must offer; object where no model is asked

    def batch(self, model: nn.Module) -> int:
        """How many examples to ask of at once."""
        ...

    def __call__(self, model: nn.Module, x: Tensor, noise: ExampleNoise) -> Evidence:
        """The evidence of stored examples x, shape (B, ...)."""
        ...
