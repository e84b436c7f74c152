"""What a probe is: an expensive question to a model, asked once of every example."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from oodgen.noise import ExampleNoise

__all__ = ["Evidence", "Probe", "asking"]

# Named per-example numbers, float32; the last axis is the example.
Evidence = Mapping[str, Tensor]


class Probe(Protocol):
    """A question to (model, x); its options are its constructor's arguments.

    One that needs a reference has `fit(model, examples)`, with the examples that were trained on as batches of
    (x, labels, noise), and returns itself with the tensors `fitted`; a detector takes these from the run.

    One that takes gradients says so with a class attribute `gradients = True`; see `asking`.
    """

    needs: type  # the Protocol or class that the model must offer; object where no model is asked

    def batch(self, model: nn.Module) -> int:
        """How many examples to ask of at once."""
        ...

    def __call__(self, model: nn.Module, x: Tensor, noise: ExampleNoise) -> Evidence:
        """The evidence of stored examples x, shape (B, ...)."""
        ...


@contextmanager
def asking(probe: Probe, model: nn.Module) -> Iterator[None]:
    """How a probe is called and fitted: under `torch.inference_mode`, where nothing has a gradient, not even later.

    One with `gradients = True` is called outside of it with gradients recorded; it may change the parameters'
    `requires_grad` and `grad`, which are put back afterwards.
    """
    if not getattr(probe, "gradients", False):
        with torch.inference_mode():
            yield
        return
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter, wanted, gradient in before:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient
