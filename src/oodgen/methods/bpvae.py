r"""Bigeminal-priors VAE: one VAE trained on the inlier set and on simple sets, with a separate prior for these."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.optim import Optimizer

from oodgen.data.resident import Batch
from oodgen.methods.method import Method, Terms
from oodgen.models.one_layer import OneLayerVAE
from oodgen.models.priors import require_closed_form_kl
from oodgen.models.vae import Isotropic
from oodgen.noise import Noise
from oodgen.options import Positive, Seed

__all__ = ["BPVAE"]


class BPVAE(Method):
    r"""Maximise the sum of the ELBOs of the basic set x under $p_b$ and of every simple set y under $p_s$.

    $$\mathbb E_{q(z|x)} \log p(x|z) - D_{KL}[q(z|x) \| p_b]
      + \sum_y \mathbb E_{q(z|y)} \log p(y|z) - D_{KL}[q(z|y) \| p_s], \qquad
      p_b = \mathcal N(0, \sigma_b^2 I), \quad p_s = \mathcal N(0, \sigma_s^2 I)$$

    $p_b$ is the model's prior, under which all scores are computed. Without simple sets it is the plain VAE.

    Arguments:
        model: The VAE; $\sigma_b$ is its prior's `sigma`.
        optimizer: From parameters to an optimiser.
        sigma_s: $\sigma_s$, below $\sigma_b$ in the paper.
        seed: Seed of the noise of every step.

    Raises:
        UserError: the model's prior is learned.
        Diverged: the bound of a set or a gradient is not finite; the message names the step.

    Source: Ran et al. 2021, eqs. 4 and 5, with $p_s$ in the second KL as their text says (papers/bpvae, section 7.1).
    """

    model: OneLayerVAE
    needs = OneLayerVAE

    def __init__(
        self,
        model: OneLayerVAE,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        sigma_s: Positive = 0.1,
        seed: Seed = 0,
    ) -> None:
        super().__init__(model, optimizer, seed)
        require_closed_form_kl(model.prior, "BPVAE")
        self.simple = Isotropic(sigma=sigma_s)

    def extra_streams(self) -> frozenset[str]:
        return frozenset({"auxiliary"})

    def loss(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        # all sets in one pass, so that batch norm uses the statistics of the mixture, as in evaluation
        y = torch.cat([self.model.observe(x, noise) for x in (batch.x, *batch.auxiliary)])
        size = len(batch.x)
        q = self.model.encoder(y)
        z = q.mean + q.stddev * noise.normal("q1", (1, *q.mean.shape), y.device)
        log_px = self.model.decoder(z).log_prob(y)[0].unflatten(0, (-1, size)).mean(1)
        basic, simple = kl_divergence(q, self.model.prior()).sum(1), kl_divergence(q, self.simple()).sum(1)
        kl = torch.cat([basic[:size], simple[size:]]).unflatten(0, (-1, size)).mean(1)
        bounds = log_px - kl
        terms = {"log_px": log_px[0], "kl_1": kl[0]}
        terms |= {f"simple_{i}": bound for i, bound in enumerate(bounds[1:], 1)}
        return -bounds.sum(), {**terms, "bound": bounds[0]}
