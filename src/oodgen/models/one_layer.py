r"""The variational autoencoder with one layer of latent variables, for given encoder, decoder and prior.

$$p(x, z) = p_\theta(x | z)\, p(z), \qquad
q_\phi(z | x) = \mathcal N\big(\mu_\phi(x), \mathrm{diag}\, s_\phi(x)^2\big), \qquad
\log p(x) \ge \mathcal L(x) = \mathbb E_q \log p_\theta(x | z) - D_{KL}[q_\phi(z | x) \| p(z)]$$

Encoder, decoder and prior are modules that return distributions. For an isotropic Gaussian prior the KL has a closed
form; for others it is estimated by the mean over samples of $\log q_\phi(z | x) - \log p(z)$.

Source: Kingma & Welling 2014.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, kl_divergence

from oodgen.errors import UserError
from oodgen.models.density import Bound, LatentVariableModel
from oodgen.models.likelihoods import Likelihood
from oodgen.models.priors import Prior
from oodgen.noise import Noise

__all__ = ["OneLayerVAE", "diagonal_gaussian"]


def diagonal_gaussian(head: Tensor) -> Normal:
    r"""The Gaussian of codes (B, d) with $\mu$ and $\log s^2$ concatenated in `head`, (B, 2d)."""
    mean, log_variance = head.float().chunk(2, 1)
    return Normal(mean, (log_variance / 2).exp(), validate_args=False)


class OneLayerVAE(LatentVariableModel):
    r"""A VAE with one layer of latent variables.

    As a `Hierarchy` it has depth 1, and $\mathcal L^{>1}$ draws z from the prior.

    Arguments:
        shape: Shape of an example, (C, H, W) or (D,).
        latent: d, the dimension of z.
        likelihood: Observation model $p(x | z)$.
        encoder: Observed examples (B, *shape) to the Gaussian of codes (B, d).
        decoder: Codes (S, B, d) to the distribution of examples, whose `log_prob` has shape (S, B).
        prior: p(z).

    Raises:
        UserError: the dimension of the prior is not `latent`.
    """

    depth = 1

    def __init__(
        self,
        shape: Sequence[int],
        latent: int,
        likelihood: Likelihood,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: Prior,
    ) -> None:
        super().__init__(shape, likelihood)
        self.latent = latent
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
        if (event := prior().event_shape) not in ((), (latent,)):
            raise UserError(f"model.prior has dimension {event[0]}, but model.latent={latent}; they must be equal")

    def bounds(
        self,
        y: Tensor,
        noise: Noise,
        ks: Sequence[int],
        samples: Sequence[int],
        up: Literal["mean", "sample"] = "mean",
        down: Literal["sample", "mode"] = "sample",
    ) -> list[Bound]:
        r"""$\mathcal L^{>0} = \mathcal L$ and $\mathcal L^{>1} = \mathbb E_{p(z)} \log p(x | z)$, for each k of `ks`.

        `up` has no effect; `down="mode"` takes the prior's centre instead of samples.

        Raises:
            ValueError: k is neither 0 nor 1, or `ks` and `samples` differ in length.
        """
        if len(ks) != len(samples) or not {0, 1}.issuperset(ks):
            raise ValueError(f"levels {ks} with samples {samples} do not fit one layer")
        q = self.encoder(y) if 0 in ks else None
        return self._bounds_with_posteriors(y, [None if k == 1 else q for k in ks], noise, samples, down)

    def posteriors(self, y: Tensor, noise: Noise | None = None, samples: int = 1) -> list[Normal]:
        """See `HierarchyWithPosteriors`."""
        q = self.encoder(y)
        mean, deviation = (part.expand(samples, *part.shape) for part in (q.mean, q.stddev))
        return [Normal(mean, deviation, validate_args=False)]

    def bound_with_posteriors(
        self, y: Tensor, posteriors: Sequence[Normal | None], noise: Noise, samples: int = 1
    ) -> Bound:
        """See `HierarchyWithPosteriors`."""
        if len(posteriors) != 1:
            raise ValueError(f"{len(posteriors)} posteriors do not fit one layer")
        return self._bounds_with_posteriors(y, posteriors, noise, (samples,), "sample")[0]

    def codes(self, y: Tensor) -> list[Tensor]:
        """See `oodgen.models.density.Coded`."""
        p = self.prior()
        if not isinstance(p, Normal):
            raise UserError(
                f"codes have no standard form under a {type(self.prior).__name__} prior; leave their probe out, or "
                "choose prior@model.prior=standard"
            )
        return [(self.encoder(y).mean - p.mean) / p.stddev]

    def _bounds_with_posteriors(
        self, y: Tensor, posteriors: Sequence[Normal | None], noise: Noise, samples: Sequence[int], down: str
    ) -> list[Bound]:
        """The bound for each posterior, (B, d) or (S, B, d); for None z is drawn from the prior, or its centre."""
        prior = self.prior
        z = []
        for q, s in zip(posteriors, samples, strict=True):
            shape = (s, len(y), self.latent)
            if q is None:
                z.append(prior.draw(noise, shape, y.device) if down == "sample" else prior.centre(shape, y.device))
            else:
                z.append(q.mean + q.stddev * noise.normal("q1", shape, y.device))
        log_px = self.decoder(torch.cat(z)).log_prob(y).split(list(samples))
        bounds = []
        for q, code, value in zip(posteriors, z, log_px, strict=True):
            bounds.append(Bound(value) if q is None else Bound(value, *_log_ratio_and_kl(q, prior(), code)))
        return bounds

    def reconstruct(self, y: Tensor, noise: Noise, k: int) -> Tensor:
        if k == 1:
            return self.generate(len(y), noise)
        q = self.encoder(y)
        return self.decoder(q.mean + q.stddev * noise.normal("q1", (1, *q.mean.shape), y.device)).mean[0]

    def generate(self, count: int, noise: Noise) -> Tensor:
        z = self.prior.draw(noise, (1, count, self.latent), next(self.parameters()).device)
        return self.decoder(z).mean[0]


def _log_ratio_and_kl(q: Normal, p: Distribution, z: Tensor) -> tuple[tuple[Tensor], Tensor | None]:
    """`log_ratios` and `closed_kls` of a `Bound` for q(z | x) and p(z), at codes z (S, B, d)."""
    if isinstance(p, Normal):
        return (q.log_prob(z) - p.log_prob(z),), kl_divergence(q, p).sum(-1).expand(1, *z.shape[:2])
    # in bf16 rounding errors would accumulate over the log-determinants of a flow's transforms
    with torch.autocast(z.device.type, enabled=False):
        return ((q.log_prob(z).sum(2) - p.log_prob(z)).unsqueeze(2),), None
