r"""The vocabulary of densities: a bound on $\log p(x)$, and what a model must offer to be scored."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from oodgen.models.likelihoods import Likelihood
from oodgen.models.nets import data_dependent_init
from oodgen.noise import Noise

__all__ = ["Attackable", "Bound", "Density", "Hierarchy", "Latent", "OpenHierarchy"]


class Bound(NamedTuple):
    r"""A lower bound on $\log p(x)$, for each sample and example, in nats.

    $$\log p(x, z) - \log q(z | x) = \log p(x | z) - \sum_i [\log q(z_i | \cdot) - \log p(z_i | \cdot)]$$

    Arguments:
        log_px: $\log p(y | z)$ for S samples of z, shape (S, B).
        log_ratios: $\log q - \log p$ of each inferred layer, lowest layer first, elementwise of shape (S, B, *latent),
            or (S, B, 1) of a layer whose prior is no product over elements; empty if the density is exact.
        closed: The KL of each inferred layer where it has a closed form, (layers, S, B); None where it has none.
    """

    log_px: Tensor
    log_ratios: tuple[Tensor, ...] = ()
    closed: Tensor | None = None

    @property
    def ratios(self) -> Tensor:
        """Each inferred layer's ratio summed over its elements, (layers, S, B)."""
        if not self.log_ratios:
            return self.log_px.new_zeros(0, *self.log_px.shape)
        return torch.stack([ratio.flatten(2).sum(2) for ratio in self.log_ratios])

    @property
    def kls(self) -> Tensor:
        """What the mean over S makes each inferred layer's KL, (layers, S, B): in closed form where there is one."""
        return self.ratios if self.closed is None else self.closed

    @property
    def elbo(self) -> Tensor:
        """What the mean over S makes the bound, shape (S, B)."""
        return self.log_px - self.kls.sum(0)

    @property
    def weights(self) -> Tensor:
        r"""$\log p(x, z) - \log q(z | x)$, shape (S, B): the log-mean-exp over S is the importance-weighted bound."""
        return self.log_px - self.ratios.sum(0)


class Density(nn.Module, ABC):
    """A model that bounds (or computes) the log-density of an example.

    Images are observed once: `observe` turns stored pixels into the floats that every bound of the same example then
    sees, so that binarisation and dequantisation are the same for all of them.

    Attributes:
        bin: Width of the bin of a pixel whose mass `log_px` gives; see `oodgen.models.likelihoods.Likelihood`.
    """

    bin: float | None = 1.0

    @abstractmethod
    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        """Stored uint8 images (B, C, H, W) or float32 rows (B, D) to the floats y that the model explains."""

    @abstractmethod
    def forward(self, y: Tensor, noise: Noise, samples: int = 1) -> Bound:
        """The bound at observed examples y, with S = `samples` draws of the latent variables."""

    def plausibility(self, y: Tensor, noise: Noise) -> Tensor:
        """See `Attackable`: the bound with one draw of the latent variables, nats."""
        return self(y, noise).elbo[0]

    def initialise(self, y: Tensor, noise: Noise) -> None:
        """Data-dependent initialisation of the weight-normalised layers, if there are any, on one batch."""
        data_dependent_init(self, lambda: self(y, noise))

    @abstractmethod
    def generate(self, count: int, noise: Noise) -> Tensor:
        """Expected images in [0, 1] of `count` draws from the prior, shape (count, C, H, W), differentiable."""


class Latent(Density):
    r"""A density with latent variables and an observation model $p(x | z)$; its bound is $\mathcal L^{>0}$.

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
    """A model that says how plausible it finds an example, which an attack on it raises."""

    def observe(self, x: Tensor, noise: Noise) -> Tensor: ...

    def plausibility(self, y: Tensor, noise: Noise) -> Tensor:
        """A number for each observed example y, (B,), larger = more in-distribution; differentiable in y."""
        ...


@runtime_checkable
class Hierarchy(Protocol):
    """A density with L layers of latent variables whose bounds L^{>k} can be asked for."""

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
        """L^{>k} for each k of `ks`, with as many samples as the entry of `samples` says.

        `up` says what stands for z_{<=k} on the way up to q(z_{k+1} | .), their posterior means or samples; `down` how
        z_{<=k} is drawn on the way down, as a sample of p or as its mode.
        """
        ...

    def reconstruct(self, y: Tensor, noise: Noise, k: int) -> Tensor:
        """Expected images in [0, 1] from z_{>k} ~ q and z_{<=k} ~ p, shape (B, C, H, W)."""
        ...


@runtime_checkable
class OpenHierarchy(Hierarchy, Protocol):
    """A hierarchy that shows its posteriors, and bounds log p(x) with others in their place."""

    def posteriors(self, y: Tensor, noise: Noise | None = None, samples: int = 1) -> list[Normal]:
        r"""$q(z_i | \cdot)$ of each layer, lowest first, of shape (S, B, *latent), S = `samples`, or (1, B, *latent).

        What a layer's posterior depends on is a sample of the layers inferred before it, drawn at the sites of
        `bounds`; without noise it is their means, and the posteriors are a function of the image (S = 1).
        """
        ...

    def explain(self, y: Tensor, posteriors: Sequence[Normal | None], noise: Noise, samples: int = 1) -> Bound:
        r"""The bound with $z_i$ drawn from `posteriors[i - 1]`, or from $p(z_i | \cdot)$ where that is None.

        $$\mathbb E \Big[ \log p(x | z) - \sum_i \log q_i(z_i) - \log p(z_i | z_{>i}) \Big] \le \log p(x),$$

        the sum over the layers that have a posterior; theirs are the ratios of the `Bound`. Each posterior is of shape
        (S, B, *latent) or (1, B, *latent). With those of `posteriors(y, noise, S)` and the same noise it is
        $\mathcal L^{>0}$, sample by sample.

        Raises:
            ValueError: there are not L posteriors.
        """
        ...
