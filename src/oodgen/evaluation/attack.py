"""Adversarial out sets: the gradient step of `oodgen.data.adversarial` against the trained model."""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from oodgen.data.adversarial import Attack
from oodgen.data.preprocess import TestSet
from oodgen.data.resident import Examples, SequentialLoader
from oodgen.errors import UserError
from oodgen.evaluation.evaluate import EvaluatedModel
from oodgen.models.density import Attackable
from oodgen.models.ensemble import Ensemble
from oodgen.noise import ExampleNoise

__all__ = ["check_attackable", "make_sets"]

BATCH = 100  # images whose gradients are taken at once


def check_attackable(model: nn.Module, attacks: Mapping[str, Attack]) -> None:
    """Raise UserError if there are attacks and the model is not `Attackable`.

    Arguments:
        model: The model.
        attacks: Name -> attack, see `OODDataModule.attacks`.
    """
    model = attacked_model(model)
    for name in attacks:
        if not isinstance(model, Attackable):
            raise UserError(
                f"data.out.{name} needs a model with a differentiable score, which {type(model).__name__} does not "
                f"have; remove it with ~data.out.{name}"
            )


def attacked_model(model: nn.Module) -> nn.Module:
    """The attacked model: the model itself, or the first member of an ensemble."""
    return next(iter(model.active_members().values())) if isinstance(model, Ensemble) else model


def make_sets(evaluated: EvaluatedModel, attacks: Mapping[str, Attack], inlier: TestSet) -> dict[str, TestSet]:
    """The adversarial sets, of stored uint8 images.

    Arguments:
        evaluated: The trained model; see `attacked_model`.
        attacks: Name -> attack, see `OODDataModule.attacks`.
        inlier: The inlier's test split.
    """
    found = {}
    for name, attack in attacks.items():
        start = attack.start(inlier.x)
        parts = [
            attack.step(
                start[batch.index.cpu()], score_gradient(evaluated, batch.x, batch.index, attack.samples).cpu().numpy()
            )
            for batch in SequentialLoader(Examples(start, evaluated.device.torch, 0), BATCH)
        ]
        x = np.concatenate(parts)
        origin = f"noise after a gradient-sign step of {attack.eps:g} that raises the model's score"
        found[name] = TestSet(x, name, origin, hashlib.sha256(x.data).hexdigest())
    return found


def score_gradient(evaluated: EvaluatedModel, x: Tensor, index: Tensor, samples: int) -> Tensor:
    r"""$\sum_s \nabla_y s(y_s)$ at what the model observes of images x, (B, C, H, W), float32.

    y increases with the pixel for every likelihood (by scaling or dequantisation; a binarisation in its mean), so that
    the sign of the gradient, which is all that the step uses, is the same with respect to the pixel.
    """
    model, total = attacked_model(evaluated.model), torch.zeros(x.shape, device=x.device)
    # in full precision, since rounding could change the signs of small gradients
    with torch.enable_grad():
        for s in range(samples):
            # noise independent of that of the evaluation
            noise = ExampleNoise(evaluated.seed + 1, index, s)
            y = model.observe(x, noise).detach().requires_grad_()  # type: ignore[operator]
            total += torch.autograd.grad(model.plausibility(y, noise).sum(), y)[0]  # type: ignore[operator]
    return total
