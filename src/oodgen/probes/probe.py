"""The interface of probes: an expensive function of model and example, evaluated once for every example."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from oodgen.noise import ExampleNoise

__all__ = ["Evidence", "Probe", "probe_grad_mode"]

# Named tensors of per-example numbers, float32; the last axis is the example.
Evidence = Mapping[str, Tensor]


@runtime_checkable
class Probe(Protocol):
    """A function of (model, x) with the options of its constructor.

    A probe with statistics of the training set has `fit(model, examples)`, `examples` being batches of (x, labels or
    None, noise), which returns a copy whose mapping `fitted` holds the tensors; a run stores these for its detector.

    A probe that takes gradients has the class attribute `gradients = True`; see `probe_grad_mode`.
    """

    needs: type  # class or Protocol of the model; object if the model is not used

    def batch(self, model: nn.Module) -> int:
        """The batch size in which examples are evaluated."""
        ...

    def __call__(self, model: nn.Module, x: Tensor, noise: ExampleNoise) -> Evidence:
        """The evidence of stored examples x, (B, ...), uint8 images or float32 rows."""
        ...


@contextmanager
def probe_grad_mode(probe: Probe, model: nn.Module) -> Iterator[None]:
    """The context in which a probe is called and fitted: `torch.inference_mode`.

    With `gradients = True` it is `torch.enable_grad` instead; the parameters' `requires_grad` and `grad`, which the
    probe may change, are restored afterwards.
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
