r"""What all methods share: seeded noise for each step, guards against what is not finite, curves, validation."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.distributions import Normal
from torch.optim import LBFGS, Optimizer

from oodgen.data.resident import Batch
from oodgen.errors import Diverged, UserError
from oodgen.models.density import Density, HierarchyWithPosteriors
from oodgen.models.information import active_units, mutual_information
from oodgen.noise import ExampleNoise, Noise, RandomNoise

__all__ = ["Method", "Terms"]

PROBED = 1000  # validation examples whose codes are compared
LOG_EVERY = 50  # steps between log lines; each costs about as much as the rest of the loop

# What a loss is made of, by name, each a mean over the batch in nats.
Terms = Mapping[str, Tensor]


class Method(pl.LightningModule):
    """A model under training; a method proper gives the loss.

    Arguments:
        model: A density, or what else the method `needs`.
        optimizer: From parameters to an optimiser.
        seed: Seed of the noise of every step.

    Attributes:
        needs: The kind of model that it trains.
        such: The name of a model of that kind, for whoever gave another one.
        whole: The term of the loss that is made of the others, and that a validation states.
        ranks: Whether a larger `whole` is better, so that the best checkpoint is chosen by it.
        forward_pass: Whether a step calls the model itself, the one thing of it that `device.compile` compiles.

    Raises:
        UserError: the model is of another kind.
        Diverged: a term of the loss or a gradient is not finite; the message says at which step and which.
    """

    needs: ClassVar[type] = Density
    such: ClassVar[str] = "vae_grey"
    whole: str = "bound"
    ranks: ClassVar[bool] = True
    forward_pass: ClassVar[bool] = False
    model: Any

    def __init__(self, model: Any, optimizer: Callable[[Iterable[nn.Parameter]], Optimizer], seed: int = 0) -> None:
        super().__init__()
        if not isinstance(model, self.needs):
            raise UserError(
                f"{type(self).__name__} trains a {self.needs.__name__}, which {type(model).__name__} is not; choose "
                f"such a model, as model={self.such}"
            )
        self.model, self.optimizer, self.seed = model, optimizer, seed
        self._codes: list[list[Normal]] = []

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """An optimiser of these parameters.

        Raises:
            UserError: the options do not fit it, or it is none that steps on one gradient.
        """
        try:
            made = self.optimizer(parameters)
        except (TypeError, ValueError) as error:
            raise UserError(f"method.optimizer: {error}; torch.optim documents its options") from error
        if not isinstance(made, Optimizer) or isinstance(made, LBFGS):
            raise UserError(f"method.optimizer: {type(made).__name__} does not step on one gradient; Adam does")
        return made

    def loss(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        """The loss of a batch, and what it is made of: `bound`, `log_px` and the others that the method knows."""
        raise NotImplementedError

    def uses(self) -> frozenset[str]:
        """The streams beside the inliers that this method trains with: of "auxiliary" and "negative"."""
        return frozenset()

    def initialise(self, batch: Batch) -> None:
        """Data-dependent initialisation of the model on the first training batch.

        Raises:
            UserError: the data serve several members, or a stream that would go unused.
        """
        self.check_streams(batch)
        torch.manual_seed(self.seed)
        self.model.initialise(self.model.observe(batch.x, RandomNoise()), RandomNoise())

    def check_streams(self, batch: Batch) -> None:
        """Raise UserError if the data serve several members, or a stream that would go unused."""
        if batch.index.ndim > 1:
            raise UserError(
                f"data.members={len(batch.index)} serves an ensemble, and {type(self).__name__} trains one model; "
                "leave it out, or choose method=ensemble"
            )
        served = {"auxiliary": bool(batch.auxiliary), "negative": batch.negative is not None}
        for stream in {name for name, there in served.items() if there} - self.uses():
            raise UserError(
                f"the data serve {stream} examples, which {type(self).__name__} as configured does not train with; "
                f"leave data.{stream} out, or choose a method that uses it"
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        loss, terms = self.loss(batch, self.noise(batch))
        self.report(batch, terms)
        return loss

    def turn(
        self,
        player: LightningOptimizer,
        loss: Callable[[Batch, Noise], tuple[Tensor, Terms]],
        batch: Batch,
        noise: Noise,
        clip: float | None = None,
    ) -> Terms:
        """Gradients of a loss for one of several optimisers, while the other ones' weights are held fixed.

        Arguments:
            player: The optimiser, whose step is left to the caller.
            loss: What it minimises.
            clip: Largest norm of its gradient; None for no limit.
        """
        self.toggle_optimizer(player)
        value, terms = loss(batch, noise)
        player.zero_grad()
        self.manual_backward(value)
        if self.watched(batch.step):
            self.check_terms(batch, terms)
            self.check_gradients(batch.step)
        if clip is not None:
            self.clip_gradients(player.optimizer, clip, "norm")
        self.untoggle_optimizer(player)
        return terms

    def noise(self, batch: Batch) -> RandomNoise:
        """The noise of a step, a function of (seed, step): a resumed run draws what a straight one draws."""
        # torch's CPU generator keeps 32 bits of a seed, so mix first
        mixed = hashlib.blake2b(f"{self.seed}/{batch.step}".encode(), digest_size=4).digest()
        torch.manual_seed(int.from_bytes(mixed, "big"))
        return RandomNoise()

    def epoch(self, batch: Batch) -> float:
        """The epoch in which a batch stands, with its fraction."""
        return batch.step / self.trainer.num_training_batches

    def report(self, batch: Batch, terms: Terms, **options: float) -> None:
        """Check that the terms of a loss are finite; from time to time put them on the curves."""
        if self.watched(batch.step):
            self.check_terms(batch, terms)
        if batch.step % LOG_EVERY == 0:
            self.log(self.whole, terms[self.whole].detach(), prog_bar=True, logger=False)
            numbers = {f"train/{name}": value.item() for name, value in terms.items()} | options
            numbers |= {"epoch": self.epoch(batch), "lr": self.trainer.optimizers[0].param_groups[0]["lr"]}
            # past Lightning's own logging, which would repeat these numbers at every step until the next ones
            for logger in self.loggers:
                logger.log_metrics(numbers, batch.step)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log_dict(self.validate(batch), batch_size=len(batch.x))
        if isinstance(self.model, HierarchyWithPosteriors) and sum(len(q[0].mean) for q in self._codes) < PROBED:
            found = self.model.posteriors(self.model.observe(batch.x, ExampleNoise(self.seed, batch.index)))
            self._codes.append([Normal(q.mean[0], q.stddev[0], validate_args=False) for q in found])

    def on_validation_epoch_end(self) -> None:
        """Of each layer, its active units and its information on the first validation examples: has it collapsed?"""
        numbers: dict[str, Tensor] = {}
        for i, parts in enumerate(zip(*self._codes, strict=True), 1):
            mean, scale = (torch.cat([getattr(q, name) for q in parts]) for name in ("mean", "stddev"))
            q = Normal(mean, scale, validate_args=False)
            noise = ExampleNoise(self.seed, torch.arange(len(mean)))
            numbers |= {
                f"val/active_{i}": active_units(q).float(),
                f"val/information_{i}": mutual_information(q, noise),
            }
        self._codes.clear()
        self.log_dict(numbers)

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """What a validation states, `whole` and its parts, with the same noise every time; here the bound itself."""
        noise = ExampleNoise(self.seed, batch.index)
        bound = self.model(self.model.observe(batch.x, noise), noise)
        numbers = {f"val/kl_{i}": ratio.mean() for i, ratio in enumerate(bound.kls, 1)}
        return numbers | {"val/bound": bound.elbo.mean(), "val/log_px": bound.log_px.mean()}

    def configure_optimizers(self) -> Any:
        return self.course(self.make_optimizer(self.parameters()))

    def course(self, optimizer: Optimizer) -> Any:
        """An optimiser with the course of its learning rate, as Lightning wants it."""
        return optimizer

    def about(self) -> dict[str, Any]:
        """What the record of a training should say beside its steps, `warnings` among it."""
        return {}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.watched(self.global_step):
            self.check_gradients(self.global_step)

    def check_terms(self, batch: Batch, terms: Terms) -> None:
        """Raise Diverged if a term of the loss is not finite."""
        # all of them: a bad term spoils those that depend on it, and which came first the numbers do not say
        bad = [_words(name) for name, value in terms.items() if name != self.whole and not value.isfinite()]
        if bad:
            raise Diverged(f"the {_words(self.whole)} is not finite at step {batch.step}, in {', '.join(bad)}")

    def check_gradients(self, step: int) -> None:
        """Raise Diverged if a gradient is not finite."""
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        if not torch.nn.utils.get_total_norm(list(gradients.values())).isfinite():
            name = next((name for name, grad in gradients.items() if not grad.isfinite().all()), "their sum of squares")
            raise Diverged(f"the gradient is not finite at step {step}, in {name}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name, value in checkpoint["state_dict"].items():
            if not value.isfinite().all():
                raise Diverged(f"the weights are not finite at step {self.global_step}, in {name}")

    def watched(self, step: int) -> bool:
        """Whether the numbers of a step are looked at."""
        # looking at a number stalls a GPU, so there it is done at log steps and before a checkpoint only
        return self.device.type == "cpu" or step % LOG_EVERY == 0


def _words(name: str) -> str:
    kind, _, number = name.rpartition("_")
    if number.isdigit():
        words = {"kl": "the KL of layer z", "simple": "the bound of simple set ", "log_px": "log p(x|z) from z>"}
        return words.get(kind, f"{kind} ") + number
    return {
        "log_px": "log p(x|z)",
        "kl_negative": "the KL of the negatives",
        "kl_generated": "the KL of generated images",
        "log_py": "log p(y|x)",
        "critic_gap": "critic's gap",
        "real": "D(x)",
        "generated": "D(G(z))",
        "penalty": "the gradient penalty",
        "cross_entropy": "the cross entropy",
    }.get(name, name)
