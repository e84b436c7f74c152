r"""Likelihood regret: the gain in ELBO when the posterior is optimised for the single example."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Normal

from oodgen.models.density import HierarchyWithPosteriors
from oodgen.noise import ExampleNoise
from oodgen.options import Count, Positive
from oodgen.probes.probe import Evidence

__all__ = ["Regret"]


@dataclass(frozen=True)
class Regret:
    r"""$\max_\tau \mathcal L(x; \tau) - \mathcal L(x; \hat\tau(x))$ with $\tau$ the means and scales of the posterior.

    A factorised posterior $q_\tau(z) = \prod_i \mathcal N(z_i; m_i, \mathrm{diag}\, s_i^2)$ is optimised for each
    example, a batch in parallel, with the decoder fixed. $\hat\tau(x)$ are the encoder's posteriors, each conditioned
    on the means of the layers inferred before it; for several layers $\mathcal L(x; \hat\tau)$ thus differs slightly
    from the ELBO, whose q does not factorise. Xiao et al. optimise the weights of a copy of the encoder instead, image
    by image, which has the same maximum for one layer of latent variables if the encoder is flexible enough.

    Evidence, nats: `regret` (N,); `before` and `after` (N,), the two bounds, computed with the same noise.

    Arguments:
        steps: Steps of Adam.
        lr: Learning rate, on $m_i$ and $\log s_i$.
        samples: Samples of z in each step.
        samples_bound: Samples of z in the bounds before and after.

    Source: Xiao et al. 2020 (Likelihood Regret), eq. 6; 100 steps.
    """

    steps: Count = 100
    lr: Positive = 0.02
    samples: Count = 1
    samples_bound: Count = 16
    needs = HierarchyWithPosteriors
    gradients = True

    def batch(self, model: HierarchyWithPosteriors) -> int:
        return 500 if next(model.parameters()).device.type == "cuda" else 50

    def __call__(self, model: HierarchyWithPosteriors, x: Tensor, noise: ExampleNoise) -> Evidence:
        with torch.no_grad():
            y = model.observe(x, noise)
            start = [(q.mean.float(), q.stddev.float().log()) for q in model.posteriors(y)]
        tau = [part.clone().requires_grad_() for pair in start for part in pair]
        optimizer = torch.optim.Adam(tau, self.lr)

        def bound(parts: list[Tensor], first: int, samples: int) -> Tensor:
            pairs = zip(parts[::2], parts[1::2], strict=True)
            q = [Normal(mean, log_scale.exp(), validate_args=False) for mean, log_scale in pairs]
            return model.bound_with_posteriors(y, q, ExampleNoise(noise.seed, noise.index, first), samples).elbo.mean(0)

        with torch.no_grad():
            before = bound(tau, 0, self.samples_bound)
        for step in range(self.steps):
            # samples independent of those of the bounds before and after
            loss = -bound(tau, self.samples_bound + step * self.samples, self.samples).sum()
            for part, gradient in zip(tau, torch.autograd.grad(loss, tau), strict=True):
                part.grad = gradient
            optimizer.step()
        with torch.no_grad():
            after = bound(tau, 0, self.samples_bound)
        return {
            name: value.float() for name, value in (("regret", after - before), ("before", before), ("after", after))
        }
