r"""Supervised training: cross entropy, the variational information bottleneck, and inliers against negatives."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from oodgen.data.resident import Batch
from oodgen.errors import UserError
from oodgen.methods.method import Method, Terms
from oodgen.models.classifier import Bottleneck, Classifier
from oodgen.noise import ExampleNoise, Noise
from oodgen.options import NonNegative, Positive, Seed

__all__ = ["BinaryCrossEntropy", "CrossEntropy", "InformationBottleneck"]


class CrossEntropy(Method):
    r"""Minimise $-\log p(y | x)$, softmax over the classes.

    Logged terms: `cross_entropy` in nats, `accuracy`, and `log_py`, the negative loss, which selects checkpoint=best.

    Arguments:
        model: The classifier.
        optimizer: From parameters to an optimiser.
        seed: Seed of the noise of every step (dropout, stochastic codes).

    Raises:
        UserError: the model is no classifier; the inlier set has no labels, or labels outside of the model's classes.
        Diverged: a term of the loss or a gradient is not finite; the message names it and the step.
    """

    model: Any
    needs = Classifier
    example_model = "classifier_grey"
    monitor = "log_py"

    def initialise(self, batch: Batch) -> None:
        if batch.y is None:
            raise UserError(
                f"{type(self).__name__} needs labels, which the inlier set does not have; choose another set, or a "
                "method without labels"
            )
        self.check_streams(batch)

    def on_fit_start(self) -> None:
        labels = self.trainer.datamodule.labels  # type: ignore[attr-defined]
        if not 0 <= int(labels.min()) <= int(labels.max()) < self.model.classes:
            raise UserError(
                f"the labels are {int(labels.min())} to {int(labels.max())}, but the model has "
                f"{self.model.classes} classes, counted from 0; set model.classes={int(labels.max()) + 1}"
            )

    def loss(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        assert batch.y is not None
        logits = self.model.logits(self.model.observe(batch.x, noise)).float()
        entropy = F.cross_entropy(logits, batch.y)
        return entropy, {"cross_entropy": entropy, "accuracy": _accuracy(logits, batch.y), "log_py": -entropy}

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        _, terms = self.loss(batch, ExampleNoise(self.seed, batch.index))
        return {f"val/{name}": value for name, value in terms.items()}


class InformationBottleneck(CrossEntropy):
    r"""Minimise $-\log p(y | z) + \beta\, D_{KL}[q(z | x) \| p(z)]$, one sample $z \sim q(z | x)$ for each example.

    Logged terms: `cross_entropy`, $-\log p(y | z)$; `rate`, the KL; `accuracy`; and `bound`, the negative loss, a lower
    bound on $I(Z; Y) - \beta I(Z; X) - H(Y)$ in nats, which selects checkpoint=best.

    Arguments:
        model: The classifier with a stochastic code.
        optimizer, seed: See `CrossEntropy`.
        beta: $\beta$, the weight of the rate.

    Source: Alemi et al. 2017, eq. 17.
    """

    needs = Bottleneck
    example_model = "vib_grey"
    monitor = "bound"

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        seed: Seed = 0,
        beta: NonNegative = 1e-3,
    ) -> None:
        super().__init__(model, optimizer, seed)
        self.beta = beta

    def loss(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        assert batch.y is not None
        logits, rates = self.model.encode(self.model.observe(batch.x, noise), noise)
        entropy, rate = F.cross_entropy(logits.float(), batch.y), rates.mean()
        value = entropy + self.beta * rate
        accuracy = _accuracy(logits, batch.y)
        return value, {"cross_entropy": entropy, "rate": rate, "accuracy": accuracy, "bound": -value}


class BinaryCrossEntropy(Method):
    r"""Binary classification of inliers x and negatives $\bar x$: minimise the weighted cross entropy of the logit l,

    $$\mathbb E_x\, [-\log (1 - \sigma(l(x)))] + w\, \rho\, \mathbb E_{\bar x}\, [-\log \sigma(l(\bar x))],$$

    with $\rho$ the ratio of the numbers of negatives and inliers in the training set: the expectation per inlier over
    the training set, where a negative counts w times. It is estimated from a batch of each kind. With $w = 1 / \rho$
    ("balanced") both kinds have equal weight.

    `log_py` is the negative loss. There is no validation, since all negatives are trained with.

    Arguments:
        model: A classifier with one logit, large for negatives.
        optimizer, seed: See `CrossEntropy`.
        positive_weight: w, or "balanced".

    Raises:
        UserError: the model has several logits, or the data no negative set.

    Source: Choi, Jang, Alemi 2019, section 4.2 (papers/generative_ensembles, section 2): w = 580.
    """

    model: Any
    needs = Classifier
    example_model = "classifier_fraud"
    monitor = "log_py"

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        seed: Seed = 0,
        positive_weight: Positive | Literal["balanced"] = "balanced",
    ) -> None:
        super().__init__(model, optimizer, seed)
        if self.model.classes != 1:
            raise UserError(
                f"{type(self).__name__} needs a model with one logit, but this one has {self.model.classes}; "
                "set model.classes=1"
            )
        self.positive_weight, self.odds = positive_weight, 1.0

    def extra_streams(self) -> frozenset[str]:
        return frozenset({"negative"})

    def initialise(self, batch: Batch) -> None:
        if batch.negative is None:
            raise UserError(
                f"{type(self).__name__} needs a negative set; add one, e.g. +dataset@data.negative=emnist_letters"
            )
        self.check_streams(batch)

    def on_fit_start(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.odds = len(data.negatives.x) / len(data.train_rows)

    @property
    def weight(self) -> float:
        r"""$w \rho$, the weight of the mean over negatives relative to that over inliers."""
        return 1.0 if self.positive_weight == "balanced" else self.positive_weight * self.odds

    def loss(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        assert batch.negative is not None
        # one pass, so that batch norm uses the statistics of the mixture
        y = torch.cat([self.model.observe(x, noise) for x in (batch.x, batch.negative)])
        inlier, negative = self.model.logits(y).float()[:, 0].split([len(batch.x), len(batch.negative)])
        entropy = F.softplus(inlier).mean() + self.weight * F.softplus(-negative).mean()
        accuracy = ((inlier < 0).float().mean() + (negative >= 0).float().mean()) / 2
        return entropy, {"cross_entropy": entropy, "accuracy": accuracy, "log_py": -entropy}

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Nothing: without negatives the loss is minimal for a classifier that calls everything an inlier."""
        return {}


def _accuracy(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(1) == y).float().mean()
