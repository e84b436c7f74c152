r"""Training of a Wasserstein GAN with gradient penalty, followed by fine-tuning of its critic."""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from oodgen.data.resident import Batch
from oodgen.errors import UserError
from oodgen.methods.method import Method, Terms
from oodgen.models.wgan import WGAN
from oodgen.noise import ExampleNoise, Noise
from oodgen.options import Count, NonNegative, Seed, Whole

__all__ = ["Turns", "WassersteinGAN"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Turns:
    """The number of critic steps before each generator step.

    It is `early` for the first 25 generator steps and every 500th, else `usual`. With 5 and 100, 20,001 generator steps
    take 106,180 critic steps.

    Source: Arjovsky et al. 2017, algorithm 1 and their code.
    """

    usual: Count = 5
    early: Count = 100

    FIRST = 25
    PERIOD = 500

    def generator_moves_after(self, step: int) -> bool:
        """Whether a generator step follows the critic step number `step`, counted from 0."""
        done = step + 1
        start = self.FIRST * self.early
        if done <= start:
            return done % self.early == 0
        done -= start
        if done <= (rest := (self.PERIOD - self.FIRST) * self.usual):
            return done % self.usual == 0
        # periodic from here on: `early` steps once, then `usual` steps 499 times
        done = (done - rest - 1) % (self.early + (self.PERIOD - 1) * self.usual) + 1 - self.early
        return done >= 0 and done % self.usual == 0


class WassersteinGAN(Method):
    r"""WGAN-GP: alternating optimisation of critic D and generator G,

    $$\min_G \max_D\; \mathbb E_{p(x)} D(x) - \mathbb E_{p(z)} D(G(z))
      - \lambda\, \mathbb E_{\hat x} \big(\lVert \nabla_{\hat x} D(\hat x) \rVert_2 - 1\big)^2,
      \qquad \hat x = \epsilon x + (1 - \epsilon) G(z),\ \epsilon \sim U(0, 1).$$

    In the last `finetune` steps G is fixed and only the critic is trained, to separate p(x) from the distribution of
    G(z).

    Each batch is one critic step, at some batches followed by a generator step with new codes (see `Turns`). Steps are
    counted in batches: 20,001 generator steps and 4,001 last critic steps are `trainer.max_steps` = 106,180 + 4,001.

    Arguments:
        model: The generator and the critic.
        optimizer: From parameters to an optimiser; critic and generator have one each.
        turns: Schedule of the generator steps.
        penalty: $\lambda$.
        finetune: Critic-only steps at the end of training, at most half of all steps.
        finetune_loss: "cross_entropy", D as the logit of a classifier of data against samples (the authors' code);
            "wasserstein", the same loss as before (the paper's text).
        seed: Seed of the noise of every step.

    Raises:
        UserError: `finetune_loss` is invalid, or `trainer.max_steps` is infinite.
        Diverged: a term of a loss or a gradient is not finite; the message names the step.

    Source: Gulrajani et al. 2017, algorithm 1; Choi et al. 2019, section 4 (papers/generative_ensembles, section 2).
    """

    model: WGAN
    needs = WGAN
    example_model = "wgan_grey"
    monitor = "critic_gap"
    selects_best = False  # the gap is no measure of quality: it grows with the critic and shrinks with the generator

    def __init__(
        self,
        model: WGAN,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        turns: Turns,
        penalty: NonNegative = 10.0,
        finetune: Whole = 4001,
        finetune_loss: Literal["cross_entropy", "wasserstein"] = "cross_entropy",
        seed: Seed = 0,
    ) -> None:
        super().__init__(model, optimizer, seed)
        if finetune_loss not in ("cross_entropy", "wasserstein"):
            raise UserError(f"method.finetune_loss={finetune_loss!r} is not one of: cross_entropy, wasserstein")
        self.automatic_optimization = False
        self.turns, self.penalty, self.finetune, self.finetune_loss = turns, penalty, finetune, finetune_loss

    def initialise(self, batch: Batch) -> None:
        self.check_streams(batch)

    def configure_optimizers(self) -> Any:
        return [self.make_optimizer(network.parameters()) for network in (self.model.critic, self.model.generator)]

    def on_train_start(self) -> None:
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise UserError("trainer.max_steps=-1 has no last steps in which to fine-tune the critic; give a number")
        # the first critic-only step
        self.critic_only_from = int(total) - min(self.finetune, int(total) // 2)
        log.info(
            "training critic and generator until step %d, then the critic alone until step %d",
            self.critic_only_from,
            total,
        )

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        noise, critic_only = self.noise(batch), batch.step >= self.critic_only_from
        critic, generator = cast(list[LightningOptimizer], self.optimizers())
        loss = self.finetune_critic if critic_only and self.finetune_loss == "cross_entropy" else self.loss
        terms = self.backward_for(critic, loss, batch, noise)
        critic.step()
        if not critic_only and self.turns.generator_moves_after(batch.step):
            self.backward_for(generator, self.generator_loss, batch, noise)
            # not by generator.step(): Lightning would count two steps for a batch
            generator.optimizer.step()
        self.log_terms(batch, terms)

    def loss(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        r"""The critic's: $\mathbb E D(G(z)) - \mathbb E D(x) + \lambda \mathbb E (\lVert\nabla D\rVert_2 - 1)^2$."""
        y, made, real, generated = self._values(batch, noise)
        shape = (1, len(y), *[1] * (y.ndim - 1))
        between = made.lerp(y, noise.uniform("epsilon", shape, y.device)[0])
        penalty = self.gradient_penalty(between)
        terms = {"real": real.mean(), "generated": generated.mean(), "penalty": penalty}
        gap = terms["real"] - terms["generated"]
        return self.penalty * penalty - gap, {**terms, "critic_gap": gap}

    def finetune_critic(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        r"""$-\frac12 \mathbb E \log \sigma(D(x)) - \frac12 \mathbb E \log (1 - \sigma(D(G(z))))$."""
        _, _, real, generated = self._values(batch, noise)
        entropy = (F.softplus(-real).mean() + F.softplus(generated).mean()) / 2
        terms = {"real": real.mean(), "generated": generated.mean(), "cross_entropy": entropy}
        return entropy, {**terms, "critic_gap": terms["real"] - terms["generated"]}

    def generator_loss(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        r"""$-\mathbb E D(G(z))$."""
        value = self.model.value(self.model.generate(len(batch.x), noise)).mean()
        return -value, {"generated": value}

    def gradient_penalty(self, y: Tensor) -> Tensor:
        r"""$\mathbb E (\lVert \nabla_y D(y) \rVert_2 - 1)^2$, differentiable in the critic's weights."""
        y = y.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.model.value(y).sum(), y, create_graph=True)
        return (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The critic gap on validation examples, with the same codes at every validation."""
        _, _, real, generated = self._values(batch, ExampleNoise(self.seed, batch.index))
        return {"val/critic_gap": real.mean() - generated.mean()}

    def _values(self, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Data, detached samples, and the critic's values of both."""
        y = self.model.observe(batch.x, noise)
        with torch.no_grad():
            made = self.model.generate(len(y), noise)
        real, generated = self.model.value(torch.cat([y, made])).chunk(2)
        return y, made, real, generated
