r"""Training of a Wasserstein GAN with a gradient penalty, then of its critic alone."""

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

__all__ = ["Turns", "WassersteinGAN"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Turns:
    """How many steps of the critic come before each step of the generator.

    The first 25 steps of the generator wait for `early` of them, and so does every 500th; the others for `usual`. So
    20,001 generator steps of 5 and 100 take 106,180 critic steps.

    Source: Arjovsky et al. 2017, algorithm 1 and their code.
    """

    usual: int = 5
    early: int = 100

    FIRST = 25
    PERIOD = 500

    def __post_init__(self) -> None:
        if min(self.usual, self.early) < 1:
            raise UserError(f"method.turns: usual={self.usual} and early={self.early} must be at least 1")

    def generator(self, step: int) -> bool:
        """Whether the generator moves after the critic's step number `step`, counted from 0."""
        done = step + 1
        start = self.FIRST * self.early
        if done <= start:
            return done % self.early == 0
        done -= start
        if done <= (rest := (self.PERIOD - self.FIRST) * self.usual):
            return done % self.usual == 0
        # from here on it repeats: one long wait, then 499 short ones
        done = (done - rest - 1) % (self.early + (self.PERIOD - 1) * self.usual) + 1 - self.early
        return done >= 0 and done % self.usual == 0


class WassersteinGAN(Method):
    r"""The critic D maximises a penalised gap, the generator G by turns closes it:

    $$\min_G \max_D\; \mathbb E_{p(x)} D(x) - \mathbb E_{p(z)} D(G(z))
      - \lambda\, \mathbb E_{\hat x} \big(\lVert \nabla_{\hat x} D(\hat x) \rVert_2 - 1\big)^2,
      \qquad \hat x = \epsilon x + (1 - \epsilon) G(z),\ \epsilon \sim U(0, 1).$$

    Then, in the last steps of the training, G stays as it is and the critic learns on against it: between p(x) and
    $q_\theta(x)$, which now are both fixed.

    A batch is one step of the critic, after which at some batches the generator moves, with codes of its own
    (see `Turns`). Steps are counted in batches, throughout: 20,001 steps of the generator and 4,001 last ones of the
    critic are 106,180 + 4,001 = 110,181 batches, `trainer.max_steps`.

    Arguments:
        model: The generator and the critic.
        optimizer: From parameters to an optimiser; each of the two has one of its own, and the critic keeps its to
            the end.
        turns: When the generator moves.
        penalty: $\lambda$.
        finetune: Steps of the critic alone, at the end of the training; of a short training at most its second half.
        finetune_loss: "cross_entropy", D as the logit of a classifier that tells data from samples (the authors' code);
            "wasserstein", as before (the paper's words: the critic is trained further).
        seed: Seed of the noise of every step.

    Raises:
        UserError: `penalty` or `finetune` is negative, `finetune_loss` is none of these, or the training has no end.
        Diverged: a term of a loss or a gradient is not finite; the message says at which step.

    Source: Gulrajani et al. 2017, algorithm 1; Choi et al. 2019, section 4 (papers/generative_ensembles, section 2).
    """

    model: WGAN
    needs = WGAN
    such = "wgan_grey"
    whole = "critic_gap"
    ranks = False  # it closes as the generator learns, and opens as the critic does

    def __init__(
        self,
        model: WGAN,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        turns: Turns,
        penalty: float = 10.0,
        finetune: int = 4001,
        finetune_loss: Literal["cross_entropy", "wasserstein"] = "cross_entropy",
        seed: int = 0,
    ) -> None:
        super().__init__(model, optimizer, seed)
        if not 0 <= penalty < math.inf:
            raise UserError(f"method.penalty={penalty} must not be negative, and finite")
        if finetune < 0:
            raise UserError(f"method.finetune={finetune} must not be negative; 0 leaves the critic as the game ends")
        if finetune_loss not in ("cross_entropy", "wasserstein"):
            raise UserError(f"method.finetune_loss={finetune_loss!r} is not one of: cross_entropy, wasserstein")
        self.automatic_optimization = False
        self.turns, self.penalty, self.finetune, self.finetune_loss = turns, penalty, finetune, finetune_loss

    def initialise(self, batch: Batch) -> None:
        self.check_streams(batch)

    def configure_optimizers(self) -> Any:
        return [self.make_optimizer(player.parameters()) for player in (self.model.critic, self.model.generator)]

    def on_train_start(self) -> None:
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise UserError("trainer.max_steps=-1 leaves no end before which to fine-tune the critic; give a number")
        # the first step of the critic alone
        self.alone = int(total) - min(self.finetune, int(total) // 2)
        log.info("critic against generator to step %d, then the critic alone to step %d", self.alone, total)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        noise, alone = self.noise(batch), batch.step >= self.alone
        critic, generator = cast(list[LightningOptimizer], self.optimizers())
        loss = self.finetune_critic if alone and self.finetune_loss == "cross_entropy" else self.loss
        terms = self.turn(critic, loss, batch, noise)
        critic.step()
        if not alone and self.turns.generator(batch.step):
            self.turn(generator, self.generator_loss, batch, noise)
            # past Lightning, which would count the two turns of a batch as two steps
            generator.optimizer.step()
        self.report(batch, terms)

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
        """The gap on examples that were not trained on, with the same codes at every validation."""
        _, _, real, generated = self._values(batch, ExampleNoise(self.seed, batch.index))
        return {"val/critic_gap": real.mean() - generated.mean()}

    def _values(self, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Data and samples, the latter held fixed, and the critic's values of both."""
        y = self.model.observe(batch.x, noise)
        with torch.no_grad():
            made = self.model.generate(len(y), noise)
        real, generated = self.model.value(torch.cat([y, made])).chunk(2)
        return y, made, real, generated
