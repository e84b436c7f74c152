r"""Negative sampling: the encoder is trained to map negatives to a second, shifted prior."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.optim import Optimizer

from oodgen.data.resident import Batch
from oodgen.errors import UserError
from oodgen.methods.method import Method, Terms
from oodgen.models.one_layer import OneLayerVAE
from oodgen.models.priors import require_closed_form_kl
from oodgen.models.vae import Isotropic
from oodgen.noise import Noise
from oodgen.options import NonNegative, Positive, Seed

__all__ = ["NegativeSampling"]

SOURCES = ("dataset", "uniform", "noisy", "generated")


class NegativeSampling(Method):
    r"""For images x and negatives $\bar x$ minimise over the encoder $\phi$ and the decoder $\theta$

    $$-\mathcal L(x) + D_{KL}\big[q_\phi(z|\bar x) \,\|\, \bar p(z)\big],
      \qquad \bar p(z) = \mathcal N(m \mathbf 1, I).$$

    With generated negatives, $\bar x = G_\theta(z)$, $z \sim p(z)$, G the decoder's mean, training is adversarial: each
    batch is a step of the encoder on the above, with G(z) fixed, then a step of the decoder on
    $-\mathcal L(x) + \lambda D_{KL}[q_\phi(z|G_\theta(z)) \| p(z)]$, with the encoder fixed. With other negatives both
    networks have the same loss and take one common step.

    Arguments:
        model: The VAE.
        optimizer: From parameters to an optimiser; with generated negatives encoder and decoder have one each.
        negatives: None for the plain VAE, or where negatives come from: "dataset", the negative set of the data;
            "uniform", every pixel uniform on [0, 1]; "noisy", the batch itself plus Gaussian noise; "generated".
        shift: m, 8 for the paper's grey images and 25 for its colour images.
        sigma: Standard deviation of the noise of "noisy", for pixels in [0, 1].
        pull: $\lambda$, the weight of the decoder's adversarial term: 1 in the paper's section 4.3; with 0 the decoder
            is not trained against the encoder.
        clip: With generated negatives, the largest norm of either network's gradient; None for no limit. (The
            Trainer's clipping does not support two optimisers.)
        seed: Seed of the noise of every step.

    Raises:
        UserError: `negatives` is invalid, or "dataset" without a negative set; `clip` or `pull` without generated
            negatives; the model's prior is learned.
        Diverged: a term of the loss or a gradient is not finite; the message names the step.

    Source: Csiszárik et al. 2019, sections 3 and 4.3 (papers/negative_sampling, sections 1-3). The paper updates
    encoder and decoder alternately for every source; with a common loss this costs 1.5 times as much and only makes one
    of the two gradients one step newer.
    """

    model: OneLayerVAE
    needs = OneLayerVAE

    def __init__(
        self,
        model: OneLayerVAE,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        negatives: Literal["dataset", "uniform", "noisy", "generated"] | None = None,
        shift: float = 8.0,
        sigma: Positive = 0.25,
        clip: Positive | None = None,
        pull: NonNegative = 1.0,
        seed: Seed = 0,
    ) -> None:
        super().__init__(model, optimizer, seed)
        require_closed_form_kl(model.prior, "NegativeSampling")
        if negatives is not None and negatives not in SOURCES:
            raise UserError(f"method.negatives={negatives!r} is not one of: {', '.join(SOURCES)}")
        if clip is not None and negatives != "generated":
            raise UserError("method.clip needs method.negatives=generated; use trainer.gradient_clip_val instead")
        if pull != 1 and negatives != "generated":
            raise UserError("method.pull needs method.negatives=generated; remove it")
        self.automatic_optimization = negatives != "generated"
        self.negatives, self.sigma, self.clip, self.pull = negatives, sigma, clip, pull
        self.shifted = Isotropic(mean=shift)

    def extra_streams(self) -> frozenset[str]:
        return frozenset({"negative"} if self.negatives == "dataset" else ())

    def initialise(self, batch: Batch) -> None:
        if self.negatives == "dataset" and batch.negative is None:
            raise UserError(
                "method.negatives=dataset needs a negative set; add one, e.g. +dataset@data.negative=emnist_letters"
            )
        super().initialise(batch)

    def configure_optimizers(self) -> Any:
        if self.automatic_optimization:
            return super().configure_optimizers()
        return [self.make_optimizer(network.parameters()) for network in (self.model.encoder, self.model.decoder)]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if self.automatic_optimization:
            return super().training_step(batch, batch_idx)
        noise = self.noise(batch)
        encoder, decoder = cast(list[LightningOptimizer], self.optimizers())
        terms = self.backward_for(encoder, self.loss, batch, noise, self.clip)
        # not by encoder.step(): Lightning would count two steps for a batch
        encoder.optimizer.step()
        decoder_terms = self.backward_for(decoder, self.decoder_loss, batch, noise, self.clip)
        decoder.step()
        self.log_terms(batch, {**terms, **decoder_terms})
        return None

    def loss(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        r"""$-\mathcal L(x) + D_{KL}[q(z|\bar x) \| \bar p]$ with the negatives detached."""
        y = self.model.observe(batch.x, noise)
        with torch.no_grad():
            negative = self._negative(y, batch, noise)
        q, q_negative = self._encode(y, negative)
        log_px = self._log_px(q, y, noise)
        kl = kl_divergence(q, self.model.prior()).sum(1).mean()
        bound = log_px - kl
        if q_negative is None:
            return -bound, {"log_px": log_px, "kl_1": kl, "bound": bound}
        kl_negative = kl_divergence(q_negative, self.shifted()).sum(1).mean()
        return kl_negative - bound, {"log_px": log_px, "kl_1": kl, "kl_negative": kl_negative, "bound": bound}

    def decoder_loss(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        r"""$-\log p(x|z) + \lambda D_{KL}[q(z|G(z)) \| p]$; the KL of x is independent of the decoder and omitted."""
        y = self.model.observe(batch.x, noise)
        if self.pull == 0:
            return -self._log_px(self.model.encoder(y), y, noise), {}
        generated = self._negative(y, batch, noise)
        q, q_generated = self._encode(y, generated)
        assert q_generated is not None
        kl_generated = kl_divergence(q_generated, self.model.prior()).sum(1).mean()
        return self.pull * kl_generated - self._log_px(q, y, noise), {"kl_generated": kl_generated}

    def _negative(self, y: Tensor, batch: Batch, noise: Noise) -> Tensor | None:
        """A batch of negatives on the scale of y; None for the plain VAE."""
        if self.negatives == "dataset":
            assert batch.negative is not None
            return self.model.observe(batch.negative, noise)
        scaled = self.model.likelihood.from_unit_interval
        if self.negatives == "uniform":
            return scaled(noise.uniform("negative", tuple(y.shape), y.device))
        if self.negatives == "noisy":
            return scaled(batch.x / 255 + self.sigma * noise.normal("negative", tuple(y.shape), y.device))
        return scaled(self.model.generate(len(y), noise)) if self.negatives == "generated" else None

    def _encode(self, y: Tensor, negative: Tensor | None) -> tuple[Normal, Normal | None]:
        """Posteriors of both, in one pass, so that batch norm uses the statistics of the mixture, as in evaluation."""
        if negative is None:
            return self.model.encoder(y), None
        q = self.model.encoder(torch.cat([y, negative]))
        (mean, negative_mean), (scale, negative_scale) = q.mean.chunk(2), q.stddev.chunk(2)
        return Normal(mean, scale, validate_args=False), Normal(negative_mean, negative_scale, validate_args=False)

    def _log_px(self, q: Normal, y: Tensor, noise: Noise) -> Tensor:
        z = q.mean + q.stddev * noise.normal("q1", (1, *q.mean.shape), y.device)
        return self.model.decoder(z).log_prob(y).mean()
