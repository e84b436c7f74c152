r"""Training with labels: cross entropy, its form with a bottleneck, and inliers against known negatives."""

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

__all__ = ["BinaryCrossEntropy", "CrossEntropy", "InformationBottleneck"]


class CrossEntropy(Method):
    r"""Minimise $-\log p(y | x)$, softmax over the classes.

    Curves: `cross_entropy` in nats and `accuracy`, of batches and of the validation part of the train split; `log_py`
    is the negative loss, log p(y|x), by which checkpoint=best is chosen.

    Arguments:
        model: The classifier.
        optimizer: From parameters to an optimiser.
        seed: Seed of the noise of every step: dropout's, and that of a code.

    Raises:
        UserError: the model is none; the inlier set has no labels, or labels that are none of the model's classes.
        Diverged: a term of the loss or a gradient is not finite; the message says at which step and which.
    """

    model: Any
    needs = Classifier
    such = "classifier_grey"
    whole = "log_py"

    def initialise(self, batch: Batch) -> None:
        if batch.y is None:
            raise UserError(
                f"{type(self).__name__} learns from labels, and the inlier set has none; choose a set with labels "
                "(`python -m oodgen.data` tells), or a method that needs none"
            )
        self.check_streams(batch)

    def on_fit_start(self) -> None:
        labels = self.trainer.datamodule.labels  # type: ignore[attr-defined]
        if not 0 <= int(labels.min()) <= int(labels.max()) < self.model.classes:
            raise UserError(
                f"the labels run from {int(labels.min())} to {int(labels.max())}, and the model tells "
                f"{self.model.classes} classes from 0 on; give model.classes={int(labels.max()) + 1}"
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
    r"""Minimise $-\log p(y | z) + \beta\, D_{KL}[q(z | x) \| p(z)]$, one draw $z \sim q(z | x)$ for each example.

    Curves: `cross_entropy`, here $-\log p(y | z)$, `rate`, the KL, and `accuracy`; `bound` is the negative loss, below
    $I(Z; Y) - \beta I(Z; X)$ less the labels' entropy, in nats, by which checkpoint=best is chosen.

    Arguments:
        model: The classifier with a code.
        optimizer, seed: See `CrossEntropy`.
        beta: $\beta$, the price of a nat of the code.

    Raises:
        UserError: also if `beta` is negative.

    Source: Alemi et al. 2017, eq. 17.
    """

    needs = Bottleneck
    such = "vib_grey"
    whole = "bound"

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        seed: int = 0,
        beta: float = 1e-3,
    ) -> None:
        super().__init__(model, optimizer, seed)
        if not beta >= 0:
            raise UserError(f"method.beta={beta} must not be negative")
        self.beta = beta

    def loss(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        assert batch.y is not None
        logits, rates = self.model.encode(self.model.observe(batch.x, noise), noise)
        entropy, rate = F.cross_entropy(logits.float(), batch.y), rates.mean()
        value = entropy + self.beta * rate
        accuracy = _accuracy(logits, batch.y)
        return value, {"cross_entropy": entropy, "rate": rate, "accuracy": accuracy, "bound": -value}


class BinaryCrossEntropy(Method):
    r"""Inliers x against negatives $\bar x$: minimise the weighted sigmoid cross entropy of the logit l,

    $$\mathbb E_x\, [-\log (1 - \sigma(l(x)))] + w\, \rho\, \mathbb E_{\bar x}\, [-\log \sigma(l(\bar x))],$$

    with $\rho$ the number of negatives for each inlier that is trained on. It is the expectation, for each inlier, over
    the data as they are, where a negative counts w times; here a batch of negatives goes with each batch of inliers, so
    that no batch is without. With $w = 1 / \rho$ both kinds weigh the same. "balanced" stands for that.

    `log_py` is the negative loss, log p(y|x) with negatives so weighted. There is no validation: the negatives are all
    trained with.

    Arguments:
        model: A classifier with one logit, large for negatives.
        optimizer, seed: See `CrossEntropy`.
        positive_weight: w, or "balanced".

    Raises:
        UserError: the model has several logits, or the data no negative set; the weight is not positive.

    Source: Choi, Jang, Alemi 2019, section 4.2 (papers/generative_ensembles, section 2): w = 580.
    """

    model: Any
    needs = Classifier
    such = "classifier_fraud"
    whole = "log_py"

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        seed: int = 0,
        positive_weight: float | Literal["balanced"] = "balanced",
    ) -> None:
        super().__init__(model, optimizer, seed)
        if self.model.classes != 1:
            raise UserError(
                f"{type(self).__name__} tells negatives by one logit, and the model has {self.model.classes}; "
                "give model.classes=1"
            )
        if positive_weight != "balanced" and not (isinstance(positive_weight, (int, float)) and positive_weight > 0):
            raise UserError(f'method.positive_weight={positive_weight} is neither positive nor "balanced"')
        self.positive_weight, self.odds = positive_weight, 1.0

    def uses(self) -> frozenset[str]:
        return frozenset({"negative"})

    def initialise(self, batch: Batch) -> None:
        if batch.negative is None:
            raise UserError(
                f"{type(self).__name__} learns from negatives, and the data have none; add a set as "
                "+dataset@data.negative=emnist_letters"
            )
        self.check_streams(batch)

    def on_fit_start(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.odds = len(data.negatives.x) / len(data.rows)

    @property
    def weight(self) -> float:
        r"""$w \rho$, what the mean over negatives counts against that over inliers."""
        return 1.0 if self.positive_weight == "balanced" else self.positive_weight * self.odds

    def loss(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        assert batch.negative is not None
        # one pass, so that a batch norm sees one mixture
        y = torch.cat([self.model.observe(x, noise) for x in (batch.x, batch.negative)])
        inlier, negative = self.model.logits(y).float()[:, 0].split([len(batch.x), len(batch.negative)])
        entropy = F.softplus(inlier).mean() + self.weight * F.softplus(-negative).mean()
        accuracy = ((inlier < 0).float().mean() + (negative >= 0).float().mean()) / 2
        return entropy, {"cross_entropy": entropy, "accuracy": accuracy, "log_py": -entropy}

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Nothing: of the loss there would only be the part of the inliers, which calling nothing out makes zero."""
        return {}


def _accuracy(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(1) == y).float().mean()
