r"""Training by maximum likelihood: the ELBO or IWAE bound, with KL warm-up and free bits."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from oodgen.data.resident import Batch
from oodgen.errors import UserError
from oodgen.methods.method import Method, Terms
from oodgen.models.density import Bound, Density
from oodgen.noise import Noise
from oodgen.options import Count, NonNegative, Seed

__all__ = ["FreeBits", "MaximumLikelihood"]


@dataclass(frozen=True)
class FreeBits:
    r"""Free bits: the KL of each layer counts at least $\lambda$ in the loss, against posterior collapse.

    Arguments:
        nats: $\lambda$.
        per: "layer": $\max(\lambda, \mathrm{KL}_i)$ of the batch mean for each layer (the paper's text); without
            clamping at $\lambda$ = 0, since a sampled KL may be negative. "channel": the log-ratio of each element and
            example is clamped at $\lambda$ / (channels of the layer), also at $\lambda$ = 0, as in the authors' code
            (392, 2 and 2 nats for the three layers of the grey model at $\lambda$ = 2).
        hold: Epochs during which $\lambda$ is constant.
        anneal: Epochs over which it then decreases to 0, linearly; None to keep it constant.

    Source: Havtorn et al. 2021, table 4 (2 nats per z, 200 epochs, then annealed over 200).
    """

    nats: NonNegative = 2.0
    per: Literal["layer", "channel"] = "layer"
    hold: NonNegative = 200
    anneal: NonNegative | None = 200

    def __post_init__(self) -> None:
        if self.per not in ("layer", "channel"):
            raise UserError(f"method.free_bits.per={self.per!r} is not one of: layer, channel")

    def at(self, epoch: float) -> float:
        """$\\lambda$ at an epoch."""
        if self.anneal is None or epoch <= self.hold:
            return self.nats
        return self.nats * max(0.0, 1 - (epoch - self.hold) / self.anneal) if self.anneal > 0 else 0.0

    def __call__(self, bound: Bound, epoch: float) -> Tensor:
        """The clamped KL of each layer, averaged over samples and examples, (layers,), nats."""
        floor = self.at(epoch)
        if self.per == "layer":
            kl = bound.kls.mean((1, 2))
            return kl.clamp_min(floor) if floor > 0 else kl
        return torch.stack(
            [ratio.clamp_min(floor / ratio.shape[2]).flatten(2).sum(2).mean() for ratio in bound.log_ratios]
        )


class MaximumLikelihood(Method):
    r"""Maximise $\mathbb E \log p(x | z) - \beta \sum_i \max(\lambda, \mathrm{KL}_i)$, or an importance-weighted bound.

    Expectations are means over S samples. The importance-weighted bound is
    $\log \frac1S \sum_s \exp[\log p(x | z_s) - \beta \log q(z_s | x) / p(z_s)]$, at $\beta = 1$ that of Burda et al.
    The first objective is minus (distortion + $\beta$ rate) of Choi et al. 2019.

    Arguments:
        model: The density.
        optimizer: From parameters to an optimiser.
        seed: Seed of the noise of every step.
        samples: S, samples of the latent variables for each example.
        warmup: Epochs over which $\beta$ increases from 0, linearly.
        free_bits: Lower limit $\lambda$ of each layer's KL; None for none.
        decay: Schedule of the learning rate: "constant", "linear" (to 0) or "cosine" (to 0).
        objective: "elbo", the mean over the S samples, or "iwae", the logarithm of the mean of their weights.
        beta: $\beta$ after the warm-up.

    Raises:
        UserError: an option is invalid, or free bits are combined with "iwae", which has no KL term.
        Diverged: the bound or a gradient is not finite; the message names the step and layer.

    Source: papers/hierarchical_llr, section 1 (training); Choi, Jang, Alemi 2019, section 4.1, whose code takes the
    mean of 16 ELBOs (papers/generative_ensembles, section 2); Burda, Grosse, Salakhutdinov 2016, eq. 8.
    """

    calls_forward = True

    def __init__(
        self,
        model: Density,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        seed: Seed = 0,
        samples: Count = 1,
        warmup: NonNegative = 0,
        free_bits: FreeBits | None = None,
        decay: Literal["constant", "linear", "cosine"] = "constant",
        objective: Literal["elbo", "iwae"] = "elbo",
        beta: NonNegative = 1.0,
    ) -> None:
        super().__init__(model, optimizer, seed)
        if objective not in ("elbo", "iwae"):
            raise UserError(f"method.objective={objective!r} is not one of: elbo, iwae")
        if objective == "iwae" and free_bits is not None:
            raise UserError(
                "method.free_bits needs a KL term, which method.objective=iwae does not have; set it to null"
            )
        if decay not in ("constant", "linear", "cosine"):
            raise UserError(f"method.decay={decay!r} is not one of: constant, linear, cosine")
        self.samples, self.warmup, self.free_bits, self.decay = samples, warmup, free_bits, decay
        self.objective, self.beta = objective, beta

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, terms = self.loss(batch, self.noise(batch))
        self.log_terms(batch, terms, beta=self._beta(batch))
        return loss

    def loss(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        bound, gain, further = self.gain(self.model.observe(batch.x, noise), noise)
        log_px = bound.log_px.mean()
        kl = bound.kls.mean((1, 2))
        terms = {f"kl_{i}": ratio for i, ratio in enumerate(kl, 1)}
        beta = self._beta(batch)
        if self.objective == "iwae":
            weights = bound.log_px - beta * bound.layer_log_ratios.sum(0)
            loss = math.log(self.samples) - weights.logsumexp(0).mean()
        else:
            penalty = kl if self.free_bits is None else self.free_bits(bound, self.epoch_at(batch))
            loss = beta * penalty.sum() - gain
        # `monitor` last, so that an error names the terms it depends on first
        return loss, {"log_px": log_px, **further, **terms, "bound": log_px - kl.sum()}

    def gain(self, y: Tensor, noise: Noise) -> tuple[Bound, Tensor, Terms]:
        """The ELBO of observed examples, the reconstruction term of the objective, and further terms to log."""
        bound = self.model(y, noise, self.samples)
        return bound, bound.log_px.mean(), {}

    def _beta(self, batch: Batch) -> float:
        return self.beta * (min(1.0, self.epoch_at(batch) / self.warmup) if self.warmup > 0 else 1.0)

    def with_scheduler(self, optimizer: Optimizer) -> Any:
        if self.decay == "constant":
            return optimizer
        total = int(self.trainer.estimated_stepping_batches)
        if self.decay == "linear":
            schedule: Any = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-8, total)
        else:
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
