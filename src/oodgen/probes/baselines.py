r"""ODIN and Mahalanobis as pytorch-ood computes them (extra `baselines`): larger = more out-of-distribution."""

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from oodgen.errors import UserError
from oodgen.models.classifier import Classifier
from oodgen.noise import ExampleNoise
from oodgen.probes.probe import Evidence

__all__ = ["ODIN", "Mahalanobis"]


@dataclass(frozen=True)
class ODIN:
    r"""A step that raises the predicted class's probability, then the maximum of a tempered softmax.

    $$\hat x = y - \varepsilon\, \mathrm{sign}\, \nabla_y [-\log S_{\hat c}(y; T)], \qquad
    -\max_c S_c(\hat x; T), \qquad S(y; T) = \mathrm{softmax}(\mathrm{logits}(y) / T)$$

    Evidence: `score` (N,), the negative maximum, in [-1, 0].

    Arguments:
        temperature: T.
        eps: $\varepsilon$, where white is 1.

    Raises:
        UserError: pytorch-ood is not there, or an option is out of range.

    Source: Liang et al. 2018, eq. 1 to 3. They chose both options by out examples, each pair's own; the defaults here
    are the values they name most, and nothing is chosen.
    """

    temperature: float = 1000.0
    eps: float = 0.0014
    needs = Classifier
    gradients = True

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and self.eps >= 0):
            raise UserError(f"odin: temperature={self.temperature} must be positive, and eps={self.eps} not negative")
        _detectors()

    def batch(self, model: Classifier) -> int:
        return 500

    def __call__(self, model: Classifier, x: Tensor, noise: ExampleNoise) -> Evidence:
        # bf16 would leave little of the tempered softmax
        with torch.autocast(x.device.type, enabled=False):
            detector = _detectors().ODIN(model.logits, temperature=self.temperature, eps=self.eps)
            return {"score": detector.predict(model.observe(x, noise).clone()).detach()}


@dataclass(frozen=True)
class Mahalanobis:
    r"""Half the squared distance of the features to the nearest class mean, in the metric of the pooled scatter.

    $$\tfrac12 \min_k (f(x) - \mu_k)^\top S^{-1} (f(x) - \mu_k), \qquad
    S = \sum_k \sum_{i : y_i = k} (f(x_i) - \mu_k)(f(x_i) - \mu_k)^\top + 10^{-6} I$$

    The paper's covariance is S / N: a factor of all distances, which changes no ranking. pytorch-ood sums S in float32:
    where features are nearly collinear, as behind dead ReLUs, distances are inexact.

    Evidence: `distance` (N,).

    Arguments:
        fitted: `mean` (K, F) and `precision` (F, F), $S^{-1}$, from `fit`.

    Raises:
        UserError: pytorch-ood is not there.

    Source: Lee et al. 2018, eq. 1 and 2, of the last features and without their perturbation of the input.
    """

    # of the weights and the training set, which name stored evidence already
    fitted: Mapping[str, Tensor] | None = field(default=None, repr=False)
    needs = Classifier

    def __post_init__(self) -> None:
        _detectors()

    def batch(self, model: Classifier) -> int:
        return 500

    def fit(self, model: Classifier, examples: Iterable[tuple[Tensor, Tensor | None, ExampleNoise]]) -> "Mahalanobis":
        """The probe with means and precision of what was trained on: stored examples, labels and noise by batches.

        Raises:
            UserError: there are no labels.
        """
        features, labels = [], []
        for x, y, noise in examples:
            if y is None:
                raise UserError("Mahalanobis wants the labels of the inlier set, which has none; leave the probe out")
            features.append(model.features(model.observe(x, noise)).float())
            labels.append(y)
        # numbered anew: which class is which does not matter, and a set may lack one
        numbers = torch.cat(labels).unique(return_inverse=True)[1]
        made = _detectors().Mahalanobis(None).fit_features(torch.cat(features), numbers)
        return replace(self, fitted={"mean": made.mu, "precision": made.precision})

    def __call__(self, model: Classifier, x: Tensor, noise: ExampleNoise) -> Evidence:
        if self.fitted is None:
            raise ValueError("Mahalanobis must be fitted on training examples before it is asked")
        made = _detectors().Mahalanobis(None)
        made.mu, made.precision = (self.fitted[name].to(x.device) for name in ("mean", "precision"))
        return {"distance": made.predict_features(model.features(model.observe(x, noise)).float())}


def _detectors() -> Any:
    """pytorch-ood's detectors, which take seconds to import.

    Raises:
        UserError: the package is not there.
    """
    try:
        return importlib.import_module("pytorch_ood.detector")
    except ImportError as error:
        raise UserError(
            "ODIN and Mahalanobis need pytorch-ood, which is not installed; pip install 'oodgen[baselines]', or leave "
            "their probes and scores out"
        ) from error
