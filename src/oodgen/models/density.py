r"""Interfaces of density models: `Bound`, a lower bound on $\log p(x)$, and the classes and protocols that give one."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from oodgen.models.likelihoods import Likelihood
from oodgen.models.nets import data_dependent_init
from oodgen.noise import Noise

__all__ = ["Attackable", "Bound", "Coded", "Density", "Hierarchy", "HierarchyWithPosteriors", "LatentVariableModel"]


class Bound(NamedTuple):
    r"""A lower bound on $\log p(x)$, for each sample and example, in nats.

    $$\log p(x, z) - \log q(z | x) = \log p(x | z) - \sum_i [\log q(z_i | \cdot) - \log p(z_i | \cdot)]$$

    Arguments:
        log_px: $\log p(y | z)$ for S samples of z, shape (S, B).
        log_ratios: $\log q - \log p$ of each inferred layer, lowest layer first, elementwise of shape (S, B, *latent),
            or (S, B, 1) for a layer whose prior does not factorise over elements; empty if the density is exact.
        closed_kls: The closed-form KL of each inferred layer, (layers, S, B); None where there is no closed form.
    """

    log_px: Tensor
    log_ratios: tuple[Tensor, ...] = ()
    closed_kls: Tensor | None = None

    @property
    def layer_log_ratios(self) -> Tensor:
        """`log_ratios` summed over the elements of each layer, (layers, S, B)."""
        if not self.log_ratios:
            return self.log_px.new_zeros(0, *self.log_px.shape)
        return torch.stack([ratio.flatten(2).sum(2) for ratio in self.log_ratios])

    @property
    def kls(self) -> Tensor:
        """Estimates of each layer's KL, (layers, S, B), to be averaged over S; the closed form where there is one."""
        return self.layer_log_ratios if self.closed_kls is None else self.closed_kls

    @property
    def elbo(self) -> Tensor:
        """Estimates of the ELBO, (S, B), to be averaged over S."""
        return self.log_px - self.kls.sum(0)

    @property
    def log_weights(self) -> Tensor:
        r"""Log importance weights $\log p(x, z) - \log q(z | x)$, (S, B); their log-mean-exp is the IWAE bound."""
        return self.log_px - self.layer_log_ratios.sum(0)


class Density(nn.Module, ABC):
    """A model that computes the log-density of an example, or a lower bound on it.

    `observe` turns stored pixels into floats (scaling, binarisation, dequantisation) once; all bounds of an example are
    computed from the same observed y.

    Attributes:
        bin: Width of the pixel bin whose probability mass `log_px` gives; see
            `oodgen.models.likelihoods.Likelihood`.
    """

    bin: float | None = 1.0

    @abstractmethod
    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        """Stored uint8 images (B, C, H, W) or float32 rows (B, D) to the modelled floats y of the same shape."""

    @abstractmethod
    def forward(self, y: Tensor, noise: Noise, samples: int = 1) -> Bound:
        """The bound of observed examples y, with S = `samples` draws of the latent variables."""

    def plausibility(self, y: Tensor, noise: Noise) -> Tensor:
        """See `Attackable`: the bound with one draw of the latent variables, nats."""
        return self(y, noise).elbo[0]

    def initialise(self, y: Tensor, noise: Noise) -> None:
        """Data-dependent initialisation of the weight-normalised layers, if any, on one batch."""
        data_dependent_init(self, lambda: self(y, noise))

    @abstractmethod
    def generate(self, count: int, noise: Noise) -> Tensor:
        """Expected images in [0, 1] given `count` draws from the prior, (count, C, H, W), differentiable."""


class LatentVariableModel(Density):
    r"""A density with L layers of latent variables and an observation model $p(x | z)$; its bound is the ELBO.

    Arguments:
        shape: Shape of an example.
        likelihood: Observation model.

    Attributes:
        depth: L.
    """

    depth: int

    def __init__(self, shape: Sequence[int], likelihood: Likelihood) -> None:
        super().__init__()
        self.shape, self.likelihood, self.bin = tuple(shape), likelihood, likelihood.bin

    @abstractmethod
    def bounds(
        self,
        y: Tensor,
        noise: Noise,
        ks: Sequence[int],
        samples: Sequence[int],
        up: Literal["mean", "sample"] = "mean",
        down: Literal["sample", "mode"] = "sample",
    ) -> list[Bound]:
        """See `Hierarchy`."""

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        return self.likelihood.observe(x, noise)

    def forward(self, y: Tensor, noise: Noise, samples: int = 1) -> Bound:
        return self.bounds(y, noise, (0,), (samples,))[0]


@runtime_checkable
class Attackable(Protocol):
    """A model with a differentiable in-distribution score, which an adversarial attack maximises."""

    def observe(self, x: Tensor, noise: Noise) -> Tensor: ...

    def plausibility(self, y: Tensor, noise: Noise) -> Tensor:
        """The score of observed examples y, (B,), larger = more in-distribution; differentiable in y."""
        ...


@runtime_checkable
class Coded(Protocol):
    """A density with codes of an example that are standard normal under its prior."""

    def observe(self, x: Tensor, noise: Noise) -> Tensor: ...

    def codes(self, y: Tensor) -> list[Tensor]:
        r"""Codes of observed examples, lowest layer first, each (B, *latent); a deterministic function of y.

        Of a flow those of `encode`; of latent variables $(\mu_i - \mu_{p,i}) / \sigma_{p,i}$ at the posterior means
        $\mu_i$, with $p(z_i | z_{>i})$ given the means of the layers above.

        Raises:
            UserError: the prior is not Gaussian.
        """
        ...


@runtime_checkable
class Hierarchy(Protocol):
    """A density with L = `depth` layers of latent variables that computes the bounds L^{>k}."""

    depth: int

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def observe(self, x: Tensor, noise: Noise) -> Tensor: ...

    def bounds(
        self,
        y: Tensor,
        noise: Noise,
        ks: Sequence[int],
        samples: Sequence[int],
        up: Literal["mean", "sample"] = "mean",
        down: Literal["sample", "mode"] = "sample",
    ) -> list[Bound]:
        """L^{>k} for each k of `ks`, each with the number of draws at its place in `samples`.

        `up`: whether q(z_{k+1} | .) is conditioned on the posterior means of z_{<=k} or on samples. `down`: whether
        z_{<=k} is a sample of p(z_{<=k} | z_{>k}) or its mode.
        """
        ...

    def reconstruct(self, y: Tensor, noise: Noise, k: int) -> Tensor:
        """Expected images in [0, 1] given z_{>k} ~ q and z_{<=k} ~ p, (B, C, H, W)."""
        ...


@runtime_checkable
class HierarchyWithPosteriors(Hierarchy, Protocol):
    """A hierarchy that returns its posteriors, and bounds log p(x) with given ones in their place."""

    def posteriors(self, y: Tensor, noise: Noise | None = None, samples: int = 1) -> list[Normal]:
        r"""$q(z_i | \cdot)$ of each layer, lowest first, of shape (S, B, *latent), S = `samples`, or (1, B, *latent).

        Each layer is conditioned on samples of the layers inferred before it, drawn at the noise sites of `bounds`;
        with `noise=None` on their means, so that the posteriors are a deterministic function of y (S = 1).
        """
        ...

    def bound_with_posteriors(
        self, y: Tensor, posteriors: Sequence[Normal | None], noise: Noise, samples: int = 1
    ) -> Bound:
        r"""The bound with $z_i$ drawn from `posteriors[i - 1]`, or from $p(z_i | \cdot)$ where that is None.

        $$\mathbb E \Big[ \log p(x | z) - \sum_i \log q_i(z_i) - \log p(z_i | z_{>i}) \Big] \le \log p(x),$$

        the sum over the layers whose posterior is given, which are also those of `Bound.log_ratios`. Each posterior is
        of shape (S, B, *latent) or (1, B, *latent). With `posteriors(y, noise, S)` and the same noise it equals
        $\mathcal L^{>0}$ for each sample.

        Raises:
            ValueError: `posteriors` does not have L entries.
        """
        ...
