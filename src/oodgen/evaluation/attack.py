"""Out sets that are made against the trained model: the gradient step of `oodgen.data.adversarial`."""

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

__all__ = ["check", "craft"]

BATCH = 100  # images whose gradients are taken at once


def check(model: nn.Module, attacks: Mapping[str, Attack]) -> None:
    """Raise UserError if there is something to be made against a model that cannot say how plausible it finds an image.

    Arguments:
        model: The model.
        attacks: By name, as `OODDataModule.attacks`.
    """
    model = attacked(model)
    for name in attacks:
        if not isinstance(model, Attackable):
            raise UserError(
                f"data.out.{name} raises what the model says for an image, which a {type(model).__name__} does not "
                f"say; leave it out with ~data.out.{name}"
            )


def attacked(model: nn.Module) -> nn.Module:
    """The model itself; of an ensemble its first member, and all are asked afterwards."""
    return next(iter(model.active_members().values())) if isinstance(model, Ensemble) else model


def craft(evaluated: EvaluatedModel, attacks: Mapping[str, Attack], inlier: TestSet) -> dict[str, TestSet]:
    """The sets that are made against the model, on stored pixels: uint8 images as every other set's.

    Arguments:
        evaluated: The trained model; see `attacked`.
        attacks: By name, as `OODDataModule.attacks`.
        inlier: The inlier's test split.
    """
    found = {}
    for name, attack in attacks.items():
        start = attack.start(inlier.x)
        parts = [
            attack.step(
                start[batch.index.cpu()], gradient(evaluated, batch.x, batch.index, attack.samples).cpu().numpy()
            )
            for batch in SequentialLoader(Examples(start, evaluated.device.torch, 0), BATCH)
        ]
        x = np.concatenate(parts)
        origin = f"noise moved by {attack.eps:g} to where the model finds it more plausible"
        found[name] = TestSet(x, name, origin, hashlib.sha256(x.data).hexdigest())
    return found


def gradient(evaluated: EvaluatedModel, x: Tensor, index: Tensor, samples: int) -> Tensor:
    r"""$\sum_s \nabla_y s(y_s)$ at what the model observes of images x, (B, C, H, W), float32.

    Every way to observe a pixel rises with it (a scaling, a dequantisation; a binarisation in its mean), so the sign of
    the gradient with respect to y is that with respect to the pixel, and that is all the step looks at.
    """
    model, total = attacked(evaluated.model), torch.zeros(x.shape, device=x.device)
    # in full precision, or rounding would decide the signs of small gradients
    with torch.enable_grad():
        for s in range(samples):
            # other draws than those that will score the image
            noise = ExampleNoise(evaluated.seed + 1, index, s)
            y = model.observe(x, noise).detach().requires_grad_()  # type: ignore[operator]
            total += torch.autograd.grad(model.plausibility(y, noise).sum(), y)[0]  # type: ignore[operator]
    return total
