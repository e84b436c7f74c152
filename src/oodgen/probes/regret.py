r"""Likelihood regret: how much an example's bound gains from a posterior of its own."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Normal

from oodgen.errors import UserError
from oodgen.models.density import OpenHierarchy
from oodgen.noise import ExampleNoise
from oodgen.probes.probe import Evidence

__all__ = ["Regret"]


@dataclass(frozen=True)
class Regret:
    r"""$\max_\tau \mathcal L(x; \tau) - \mathcal L(x; \hat\tau(x))$ with $\tau$ the means and scales of the posteriors.

    The variant of factorised posteriors: $q_\tau(z) = \prod_i \mathcal N(z_i; m_i, \mathrm{diag}\, s_i^2)$, free for
    each example, all examples of a batch side by side. It starts from the encoder's, through the means of the layers
    before, of which the regret is counted: for several layers that is not quite the ELBO, whose q does not factorise.
    The decoder stays as it is. Xiao et al. let the weights of a copy of the encoder go, one image after another, which
    has the same maximum for one layer of latent variables if the encoder is rich enough.

    Evidence, nats: `regret` (N,), from the same noise before and after; `before` and `after` (N,), the two bounds.

    Arguments:
        steps: Of Adam.
        lr: Its rate, on $m_i$ and $\log s_i$.
        samples: Draws of z for each step.
        samples_bound: Draws of z for the bounds before and after.

    Raises:
        UserError: a number is not positive.

    Source: Xiao et al. 2020 (Likelihood Regret), eq. 6; 100 steps.
    """

    steps: int = 100
    lr: float = 0.02
    samples: int = 1
    samples_bound: int = 16
    needs = OpenHierarchy
    gradients = True

    def __post_init__(self) -> None:
        if min(self.steps, self.samples, self.samples_bound) < 1 or not self.lr > 0:
            raise UserError("probe options steps, lr, samples and samples_bound must be positive")

    def batch(self, model: OpenHierarchy) -> int:
        return 500 if next(model.parameters()).device.type == "cuda" else 50

    def __call__(self, model: OpenHierarchy, x: Tensor, noise: ExampleNoise) -> Evidence:
        with torch.no_grad():
            y = model.observe(x, noise)
            start = [(q.mean.float(), q.stddev.float().log()) for q in model.posteriors(y)]
        free = [part.clone().requires_grad_() for pair in start for part in pair]
        optimizer = torch.optim.Adam(free, self.lr)

        def bound(parts: list[Tensor], first: int, samples: int) -> Tensor:
            pairs = zip(parts[::2], parts[1::2], strict=True)
            q = [Normal(mean, log_scale.exp(), validate_args=False) for mean, log_scale in pairs]
            return model.explain(y, q, ExampleNoise(noise.seed, noise.index, first), samples).elbo.mean(0)

        with torch.no_grad():
            before = bound(free, 0, self.samples_bound)
        for step in range(self.steps):
            # draws that the bounds before and after do not use
            loss = -bound(free, self.samples_bound + step * self.samples, self.samples).sum()
            for part, gradient in zip(free, torch.autograd.grad(loss, free), strict=True):
                part.grad = gradient
            optimizer.step()
        with torch.no_grad():
            after = bound(free, 0, self.samples_bound)
        return {
            name: value.float() for name, value in (("regret", after - before), ("before", before), ("after", after))
        }
