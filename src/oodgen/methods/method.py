r"""The base class of training methods: seeded noise of each step, checks for non-finite values, curves, validation."""

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
from oodgen.options import Seed

__all__ = ["Method", "Terms"]

PROBED = 1000  # validation examples from which active units and mutual information are estimated
LOG_EVERY = 50  # steps between logged values; logging costs about as much as the rest of the loop

# Named terms of a loss, each a mean over the batch in nats.
Terms = Mapping[str, Tensor]


class Method(pl.LightningModule):
    """A LightningModule that trains a model; subclasses implement `loss`.

    Arguments:
        model: A model of the class `needs`.
        optimizer: From parameters to an optimiser.
        seed: Seed of the noise of every step.

    Attributes:
        needs: Class or Protocol of the model.
        example_model: Name of a config of such a model, for the error message.
        monitor: Name of the term that validation reports, a combination of the others.
        selects_best: Whether a larger `monitor` is better, so that the best checkpoint is selected by it.
        calls_forward: Whether a step calls `model.forward`, which is all that `device.compile` compiles.

    Raises:
        UserError: the model is of another class.
        Diverged: a term of the loss or a gradient is not finite; the message names it and the step.
    """

    needs: ClassVar[type] = Density
    example_model: ClassVar[str] = "vae_grey"
    monitor: str = "bound"
    selects_best: ClassVar[bool] = True
    calls_forward: ClassVar[bool] = False
    model: Any

    def __init__(
        self, model: nn.Module, optimizer: Callable[[Iterable[nn.Parameter]], Optimizer], seed: Seed = 0
    ) -> None:
        super().__init__()
        if not isinstance(model, self.needs):
            raise UserError(
                f"{type(self).__name__} needs a model of type {self.needs.__name__}, which {type(model).__name__} "
                f"is not; choose another, e.g. model={self.example_model}"
            )
        self.model, self.optimizer, self.seed = model, optimizer, seed
        self._codes: list[list[Normal]] = []

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """An optimiser of these parameters.

        Raises:
            UserError: its options are invalid, or it needs several gradients a step (LBFGS).
        """
        try:
            made = self.optimizer(parameters)
        except (TypeError, ValueError) as error:
            raise UserError(f"method.optimizer: {error}; see the documentation of torch.optim") from error
        if not isinstance(made, Optimizer) or isinstance(made, LBFGS):
            raise UserError(
                f"method.optimizer: {type(made).__name__} is not an optimizer that steps on one gradient; choose "
                "e.g. Adam"
            )
        return made

    def loss(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        """The loss of a batch, a scalar, and its named terms, among them `monitor`."""
        raise NotImplementedError

    def extra_streams(self) -> frozenset[str]:
        """The data streams that this method uses beside the inliers: a subset of {"auxiliary", "negative"}."""
        return frozenset()

    def initialise(self, batch: Batch) -> None:
        """Data-dependent initialisation of the model on the first training batch.

        Raises:
            UserError: the data are those of an ensemble, or contain a stream that the method does not use.
        """
        self.check_streams(batch)
        torch.manual_seed(self.seed)
        self.model.initialise(self.model.observe(batch.x, RandomNoise()), RandomNoise())

    def check_streams(self, batch: Batch) -> None:
        """Raise UserError if the data are those of an ensemble, or contain a stream that the method does not use."""
        if batch.index.ndim > 1:
            raise UserError(
                f"data.members={len(batch.index)} is for ensembles, but {type(self).__name__} trains one model; "
                "remove it, or choose method=ensemble"
            )
        served = {"auxiliary": bool(batch.auxiliary), "negative": batch.negative is not None}
        for stream in {name for name, there in served.items() if there} - self.extra_streams():
            raise UserError(
                f"data.{stream} is set, but {type(self).__name__} as configured does not use {stream} examples; "
                "remove it, or choose a method that does"
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        loss, terms = self.loss(batch, self.noise(batch))
        self.log_terms(batch, terms)
        return loss

    def backward_for(
        self,
        optimizer: LightningOptimizer,
        loss: Callable[[Batch, Noise], tuple[Tensor, Terms]],
        batch: Batch,
        noise: Noise,
        clip: float | None = None,
    ) -> Terms:
        """Backward pass for one of several optimisers, with the other ones' parameters frozen; returns the terms.

        Arguments:
            optimizer: The optimiser; the caller takes its step.
            loss: From batch and noise to its loss and terms.
            batch, noise: Arguments of the loss.
            clip: Largest norm of the gradient; None for no limit.
        """
        self.toggle_optimizer(optimizer)
        value, terms = loss(batch, noise)
        optimizer.zero_grad()
        self.manual_backward(value)
        if self.checks_step(batch.step):
            self.check_terms(batch, terms)
            self.check_gradients(batch.step)
        if clip is not None:
            self.clip_gradients(optimizer.optimizer, clip, "norm")
        self.untoggle_optimizer(optimizer)
        return terms

    def noise(self, batch: Batch) -> RandomNoise:
        """The noise of a step, a function of (seed, step), so that a resumed run equals an uninterrupted one."""
        # torch's CPU generator uses 32 bits of the seed only, so hash first
        mixed = hashlib.blake2b(f"{self.seed}/{batch.step}".encode(), digest_size=4).digest()
        torch.manual_seed(int.from_bytes(mixed, "big"))
        return RandomNoise()

    def epoch_at(self, batch: Batch) -> float:
        """The fractional epoch of a batch."""
        return batch.step / self.trainer.num_training_batches

    def log_terms(self, batch: Batch, terms: Terms, **options: float) -> None:
        """Check that the terms of a loss are finite; every LOG_EVERY steps log them and `options`."""
        if self.checks_step(batch.step):
            self.check_terms(batch, terms)
        if batch.step % LOG_EVERY == 0:
            self.log(self.monitor, terms[self.monitor].detach(), prog_bar=True, logger=False)
            numbers = {f"train/{name}": value.item() for name, value in terms.items()} | options
            numbers |= {"epoch": self.epoch_at(batch), "lr": self.trainer.optimizers[0].param_groups[0]["lr"]}
            # not by self.log, which would repeat these numbers at every step until the next ones
            for logger in self.loggers:
                logger.log_metrics(numbers, batch.step)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log_dict(self.validate(batch), batch_size=len(batch.x))
        if isinstance(self.model, HierarchyWithPosteriors) and sum(len(q[0].mean) for q in self._codes) < PROBED:
            found = self.model.posteriors(self.model.observe(batch.x, ExampleNoise(self.seed, batch.index)))
            self._codes.append([Normal(q.mean[0], q.stddev[0], validate_args=False) for q in found])

    def on_validation_epoch_end(self) -> None:
        """Log active units and mutual information of each layer on the first validation examples."""
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
        """The validation metrics of a batch, `monitor` and its terms, with the same noise every time."""
        noise = ExampleNoise(self.seed, batch.index)
        bound = self.model(self.model.observe(batch.x, noise), noise)
        numbers = {f"val/kl_{i}": ratio.mean() for i, ratio in enumerate(bound.kls, 1)}
        return numbers | {"val/bound": bound.elbo.mean(), "val/log_px": bound.log_px.mean()}

    def configure_optimizers(self) -> Any:
        return self.with_scheduler(self.make_optimizer(self.parameters()))

    def with_scheduler(self, optimizer: Optimizer) -> Any:
        """The optimiser, with a learning-rate schedule if there is one, as `configure_optimizers` returns it."""
        return optimizer

    def training_summary(self) -> dict[str, Any]:
        """Further entries of a training's record; `warnings` is a list of sentences."""
        return {}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.checks_step(self.global_step):
            self.check_gradients(self.global_step)

    def check_terms(self, batch: Batch, terms: Terms) -> None:
        """Raise Diverged if a term of the loss is not finite."""
        # all non-finite ones: which of them caused the others is unknown
        bad = [_describe(name) for name, value in terms.items() if name != self.monitor and not value.isfinite()]
        if bad:
            raise Diverged(f"the {_describe(self.monitor)} is not finite at step {batch.step}, in {', '.join(bad)}")

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

    def checks_step(self, step: int) -> bool:
        """Whether the values of a step are checked."""
        # reading a value synchronises a GPU, so there only log steps and checkpoints are checked
        return self.device.type == "cpu" or step % LOG_EVERY == 0


def _describe(name: str) -> str:
    kind, _, number = name.rpartition("_")
    if number.isdigit():
        words = {"kl": "the KL of layer z", "simple": "the bound of simple set ", "log_px": "log p(x|z) from z>"}
        return words.get(kind, f"{kind} ") + number
    return {
        "log_px": "log p(x|z)",
        "kl_negative": "the KL of the negatives",
        "kl_generated": "the KL of generated images",
        "log_py": "log p(y|x)",
        "critic_gap": "critic gap",
        "real": "D(x)",
        "generated": "D(G(z))",
        "penalty": "the gradient penalty",
        "cross_entropy": "the cross entropy",
    }.get(name, name)
