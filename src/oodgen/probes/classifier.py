"""Outputs of classifiers: logits, and the rate of an information bottleneck."""

from dataclasses import dataclass

from torch import Tensor

from oodgen.models.classifier import Bottleneck, Classifier
from oodgen.noise import ExampleNoise
from oodgen.probes.probe import Evidence

__all__ = ["Logits", "Rate"]


@dataclass(frozen=True)
class Logits:
    """Evidence: `logits` (K, N), unnormalised log-probabilities of the K classes."""

    needs = Classifier

    def batch(self, model: Classifier) -> int:
        return 500

    def __call__(self, model: Classifier, x: Tensor, noise: ExampleNoise) -> Evidence:
        return {"logits": model.logits(model.observe(x, noise)).float().T}


@dataclass(frozen=True)
class Rate:
    r"""Evidence: `rate` (N,), $D_{KL}[q(z|x) \| p(z)]$ of a bottleneck's code, in nats.

    Source: Alemi et al. 2018; Choi, Jang, Alemi 2019, table 2 (VIB).
    """

    needs = Bottleneck

    def batch(self, model: Bottleneck) -> int:
        return 500

    def __call__(self, model: Bottleneck, x: Tensor, noise: ExampleNoise) -> Evidence:
        return {"rate": model.rate(model.observe(x, noise)).float()}
