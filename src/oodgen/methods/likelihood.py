r"""Training by maximising a bound on the likelihood: what training needs and evaluation does not."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from oodgen.data.resident import Batch
from oodgen.errors import Diverged, UserError
from oodgen.models.density import Bound, Density
from oodgen.noise import ExampleNoise, RandomNoise

__all__ = ["FreeBits", "MaximumLikelihood"]

LOG_EVERY = 50  # steps between log lines; each costs about as much as the rest of the loop


@dataclass(frozen=True)
class FreeBits:
    r"""A floor under the KL of each layer: below it there is nothing to gain, so the layer stays in use.

    Arguments:
        nats: $\lambda$.
        per: "layer": $\max(\lambda, \mathrm{KL}_i)$ on the batch mean of each layer (the paper's words); none once
            $\lambda$ is 0, or a layer whose estimate is below 0, as it may be below the top, would stop learning.
            "channel": each element's ratio is floored at $\lambda$ / (channels of the layer), for each example (what
            the authors' code does: 392, 2 and 2 nats for the grey model's three layers at $\lambda$ = 2), as there
            also at $\lambda$ = 0, where the loss still exceeds the negative bound.
        hold: Epochs during which $\lambda$ is constant.
        anneal: Epochs over which it then falls to 0, linearly; None to hold it for ever.

    Source: Havtorn et al. 2021, table 4 (2 nats per z, 200 epochs, then annealed over 200).
    """

    nats: float = 2.0
    per: Literal["layer", "channel"] = "layer"
    hold: float = 200
    anneal: float | None = 200

    def __post_init__(self) -> None:
        if self.per not in ("layer", "channel"):
            raise UserError(f"method.free_bits.per={self.per!r} is not one of: layer, channel")
        if self.nats < 0:
            raise UserError(f"method.free_bits.nats={self.nats} must not be negative")

    def at(self, epoch: float) -> float:
        """$\\lambda$ at an epoch."""
        if self.anneal is None or epoch <= self.hold:
            return self.nats
        return self.nats * max(0.0, 1 - (epoch - self.hold) / self.anneal) if self.anneal > 0 else 0.0

    def __call__(self, bound: Bound, epoch: float) -> Tensor:
        """Each layer's floored KL, averaged over samples and examples, shape (layers,), nats."""
        floor = self.at(epoch)
        if self.per == "layer":
            kl = bound.kls.mean((1, 2))
            return kl.clamp_min(floor) if floor > 0 else kl
        return torch.stack(
            [ratio.clamp_min(floor / ratio.shape[2]).flatten(2).sum(2).mean() for ratio in bound.log_ratios]
        )


class MaximumLikelihood(pl.LightningModule):
    r"""Maximise $\mathbb E \log p(x | z) - \beta \sum_i \max(\lambda, \mathrm{KL}_i)$.

    Arguments:
        model: The density.
        optimizer: From parameters to an optimiser.
        seed: Seed of the noise of every step.
        samples: S, draws of the latent variables for each example.
        warmup: Epochs over which $\beta$ rises from 0 to 1, linearly.
        free_bits: Floor under each layer's KL; None for none.
        decay: Course of the learning rate to the end of training: "constant", "linear" (to 0) or "cosine" (to 0).

    Raises:
        Diverged: the bound or a gradient is not finite; the message says at which step and layer.

    Source: papers/hierarchical_llr, section 1 (training).
    """

    def __init__(
        self,
        model: Density,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        seed: int = 0,
        samples: int = 1,
        warmup: float = 0,
        free_bits: FreeBits | None = None,
        decay: Literal["constant", "linear", "cosine"] = "constant",
    ) -> None:
        super().__init__()
        if decay not in ("constant", "linear", "cosine"):
            raise UserError(f"method.decay={decay!r} is not one of: constant, linear, cosine")
        self.model, self.make_optimizer = model, optimizer
        self.seed, self.samples, self.warmup, self.free_bits, self.decay = seed, samples, warmup, free_bits, decay

    def initialise(self, batch: Batch) -> None:
        """Data-dependent initialisation of the model on the first training batch."""
        torch.manual_seed(self.seed)
        self.model.initialise(self.model.observe(batch.x, RandomNoise()), RandomNoise())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # the noise of a step is a function of (seed, step), so that a resumed run draws what a straight one draws
        torch.manual_seed(_seed_of(self.seed, batch.step))
        epoch = batch.step / self.trainer.num_training_batches
        noise = RandomNoise()
        bound = self.model(self.model.observe(batch.x, noise), noise, self.samples)
        log_px = bound.log_px.mean()
        kl = bound.kls.mean((1, 2))
        penalty = kl if self.free_bits is None else self.free_bits(bound, epoch)
        beta = min(1.0, epoch / self.warmup) if self.warmup > 0 else 1.0
        loss = beta * penalty.sum() - log_px
        if self._watched(batch.step):
            self._check(batch.step, log_px, kl)
        if batch.step % LOG_EVERY == 0:
            value = (log_px - kl.sum()).detach()
            self.log("bound", value, prog_bar=True, logger=False)
            numbers = {f"train/kl_{i}": ratio for i, ratio in enumerate(kl.tolist(), 1)}
            numbers |= {"train/bound": float(value), "train/log_px": log_px.item(), "beta": beta, "epoch": epoch}
            numbers["lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
            # past Lightning's own logging, which would repeat these numbers at every step until the next ones
            for logger in self.loggers:
                logger.log_metrics(numbers, batch.step)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The bound at beta = 1 without floors, with the same noise at every validation."""
        noise = ExampleNoise(self.seed, batch.index)
        bound = self.model(self.model.observe(batch.x, noise), noise)
        numbers = {f"val/kl_{i}": ratio.mean() for i, ratio in enumerate(bound.kls, 1)}
        numbers |= {"val/bound": bound.value.mean(), "val/log_px": bound.log_px.mean()}
        self.log_dict(numbers, batch_size=len(batch.x))

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        if self.decay == "constant":
            return optimizer
        total = int(self.trainer.estimated_stepping_batches)
        if self.decay == "linear":
            schedule: Any = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-8, total)
        else:
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if not self._watched(self.global_step):
            return
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        if not torch.nn.utils.get_total_norm(list(gradients.values())).isfinite():
            name = next((name for name, grad in gradients.items() if not grad.isfinite().all()), "their sum of squares")
            raise Diverged(f"the gradient is not finite at step {self.global_step}, in {name}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name, value in checkpoint["state_dict"].items():
            if not value.isfinite().all():
                raise Diverged(f"the weights are not finite at step {self.global_step}, in {name}")

    def _watched(self, step: int) -> bool:
        # looking at a number stalls a GPU, so there it is done at log steps and before a checkpoint only
        return self.device.type == "cpu" or step % LOG_EVERY == 0

    def _check(self, step: int, log_px: Tensor, kl: Tensor) -> None:
        # all of them: a bad layer spoils those that depend on it, and which came first the numbers do not say
        terms = {"log p(x|z)": log_px} | {f"the KL of layer z{i}": ratio for i, ratio in enumerate(kl, 1)}
        bad = [name for name, value in terms.items() if not value.isfinite()]
        if bad:
            raise Diverged(f"the bound is not finite at step {step}, in {', '.join(bad)}")


def _seed_of(seed: int, step: int) -> int:
    # torch's CPU generator keeps 32 bits of a seed, so mix first
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=4).digest(), "big")
