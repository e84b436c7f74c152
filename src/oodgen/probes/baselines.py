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
from oodgen.options import NonNegative, Positive
from oodgen.probes.probe import Evidence

__all__ = ["ODIN", "Mahalanobis"]


@dataclass(frozen=True)
class ODIN:
    r"""Maximum of a temperature-scaled softmax after a gradient step that raises the predicted class's probability.

    $$\hat x = y - \varepsilon\, \mathrm{sign}\, \nabla_y [-\log S_{\hat c}(y; T)], \qquad
    -\max_c S_c(\hat x; T), \qquad S(y; T) = \mathrm{softmax}(\mathrm{logits}(y) / T)$$

    Evidence: `score` (N,), the negative maximum, in [-1, 0].

    Arguments:
        temperature: T.
        eps: $\varepsilon$, for pixels in [0, 1].

    Raises:
        UserError: pytorch-ood is not installed.

    Source: Liang et al. 2018, eq. 1 to 3. They chose both options on OOD examples of each pair of sets; the defaults
    are their most frequent values.
    """

    temperature: Positive = 1000.0
    eps: NonNegative = 0.0014
    needs = Classifier
    gradients = True

    def __post_init__(self) -> None:
        _detectors()

    def batch(self, model: Classifier) -> int:
        return 500

    def __call__(self, model: Classifier, x: Tensor, noise: ExampleNoise) -> Evidence:
        # bf16 is too coarse for the scaled softmax
        with torch.autocast(x.device.type, enabled=False):
            detector = _detectors().ODIN(model.logits, temperature=self.temperature, eps=self.eps)
            return {"score": detector.predict(model.observe(x, noise).clone()).detach()}


@dataclass(frozen=True)
class Mahalanobis:
    r"""Half the squared distance of the features to the nearest class mean, in the metric of the pooled scatter.

    $$\tfrac12 \min_k (f(x) - \mu_k)^\top S^{-1} (f(x) - \mu_k), \qquad
    S = \sum_k \sum_{i : y_i = k} (f(x_i) - \mu_k)(f(x_i) - \mu_k)^\top + 10^{-6} I$$

    The paper's covariance is S / N, which scales all distances. pytorch-ood sums S in float32: distances are inexact
    where features are nearly collinear, as after dead ReLUs.

    Evidence: `distance` (N,).

    Arguments:
        fitted: `mean` (K, F) and `precision` (F, F), $S^{-1}$, from `fit`.

    Raises:
        UserError: pytorch-ood is not installed.

    Source: Lee et al. 2018, eq. 1 and 2, of the last features and without their perturbation of the input.
    """

    # not in the repr, which names stored evidence: weights and training set, which determine it, are in that name too
    fitted: Mapping[str, Tensor] | None = field(default=None, repr=False)
    needs = Classifier

    def __post_init__(self) -> None:
        _detectors()

    def batch(self, model: Classifier) -> int:
        return 500

    def fit(self, model: Classifier, examples: Iterable[tuple[Tensor, Tensor | None, ExampleNoise]]) -> "Mahalanobis":
        """The probe with class means and precision of batches of training examples, labels and noise.

        Raises:
            UserError: there are no labels.
        """
        features, labels = [], []
        for x, y, noise in examples:
            if y is None:
                raise UserError("Mahalanobis wants the labels of the inlier set, which has none; leave the probe out")
            features.append(model.features(model.observe(x, noise)).float())
            labels.append(y)
        # classes are renumbered, since a set may lack some
        numbers = torch.cat(labels).unique(return_inverse=True)[1]
        made = _detectors().Mahalanobis(None).fit_features(torch.cat(features), numbers)
        return replace(self, fitted={"mean": made.mu, "precision": made.precision})

    def __call__(self, model: Classifier, x: Tensor, noise: ExampleNoise) -> Evidence:
        if self.fitted is None:
            raise ValueError("Mahalanobis must be fitted on training examples before it is called")
        made = _detectors().Mahalanobis(None)
        made.mu, made.precision = (self.fitted[name].to(x.device) for name in ("mean", "precision"))
        return {"distance": made.predict_features(model.features(model.observe(x, noise)).float())}


def _detectors() -> Any:
    """pytorch-ood's detectors, which take seconds to import.

    Raises:
        UserError: the package is not installed.
    """
    try:
        return importlib.import_module("pytorch_ood.detector")
    except ImportError as error:
        raise UserError(
            "ODIN and Mahalanobis need pytorch-ood, which is not installed; pip install 'oodgen[baselines]', or leave "
            "their probes and scores out"
        ) from error
