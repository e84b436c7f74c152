r"""Priors p(z) of the codes of a one-layer VAE: the base class, and two that are learned with the model.

A prior is a module whose forward returns the distribution of codes z of dimension d. One with i.i.d. coordinates, as
`oodgen.models.vae.Isotropic`, returns the distribution of one coordinate, a Gaussian, and the bound uses the
closed-form KL; for the others it uses the sampled ratio $\log q(z | x) - \log p(z)$.

Source: Choi, Jang, Alemi 2019, section 4 (papers/generative_ensembles, section 2), for the two that are learned.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from oodgen.errors import UserError
from oodgen.noise import Noise
from oodgen.options import Count

__all__ = ["Flow", "Mixture", "Prior", "require_closed_form_kl"]


class Prior(nn.Module, ABC):
    """A distribution of codes; its event is a code of dimension d, or one coordinate if these are i.i.d."""

    @abstractmethod
    def forward(self) -> Distribution:
        """The distribution; its `log_prob` of codes (S, B, d) is (S, B), or (S, B, d) if its event is a coordinate."""

    @abstractmethod
    def draw(self, noise: Noise, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        """Samples of `shape` = (S, B, d), from the noise sites p1 and p1/component; reparametrised."""

    @abstractmethod
    def centre(self, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        """A central code (mean, or image of the base's mean), expanded to `shape` = (S, B, d)."""


def require_closed_form_kl(prior: Prior, prior_user: str) -> None:
    """Raise UserError, naming `prior_user`, unless the KL from a Gaussian to the prior has a closed form."""
    if not isinstance(prior(), Normal):
        raise UserError(
            f"{prior_user} needs a closed-form KL, which a {type(prior).__name__} prior does not have; "
            "choose prior@model.prior=standard"
        )


class Mixture(Prior):
    r"""$\sum_k w_k\, \mathcal N(\mu_k, \mathrm{diag}\, \sigma_k^2)$, all parameters learned; its centre is its mean.

    It starts as about $\mathcal N(0, I)$, with equal weights and half of the variance between the components.

    Arguments:
        latent: d, the dimension of z.
        components: K; 100 in the example of TensorFlow Probability that the paper builds on.
    """

    def __init__(self, latent: Count, components: Count = 100) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(torch.randn(components, latent) * math.sqrt(0.5))
        self.log_scale = nn.Parameter(torch.full((components, latent), math.log(0.5) / 2))

    def forward(self) -> MixtureSameFamily:
        parts = Independent(Normal(self.mean, self.log_scale.exp(), validate_args=False), 1, validate_args=False)
        return MixtureSameFamily(Categorical(logits=self.logits, validate_args=False), parts, validate_args=False)

    def draw(self, noise: Noise, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        edges = self.logits.softmax(0).cumsum(0)[:-1]
        k = torch.searchsorted(edges, noise.uniform("p1/component", shape[:2], device))
        return self.mean[k] + self.log_scale[k].exp() * noise.normal("p1", shape, device)

    def centre(self, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        return (self.logits.softmax(0) @ self.mean).expand(shape)


class Flow(Prior):
    r"""A masked autoregressive flow: $\log p(z) = \log \mathcal N(f(z); 0, I) + \log |\det \partial f / \partial z|$.

    f is a composition of transforms $z_i \mapsto e^{a_i(z_{<i})} z_i + b_i(z_{<i})$, each with a random order of the
    coordinates, which is equivalent to permutations between them. A density costs one pass of the networks, a sample d
    passes. The centre is $f^{-1}(0)$.

    Arguments:
        latent: d, the dimension of z, at least 2.
        transforms: The number of transforms.
        hidden: Units of the hidden layers of each transform's network.

    Source: Papamakarios, Pavlakou, Murray 2017.
    """

    def __init__(
        self,
        latent: Annotated[int, ">= 2", "< 2147483648"],
        transforms: Count = 6,
        hidden: Sequence[Count] = (512, 512),
    ) -> None:
        super().__init__()
        from zuko.flows import MAF  # imported here, since it is slow and few models need it

        self.latent = latent
        self.flow = MAF(latent, transforms=transforms, randperm=True, hidden_features=tuple(hidden))

    def forward(self) -> Distribution:
        return self.flow()

    def draw(self, noise: Noise, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        return self._code(noise.normal("p1", shape, device))

    def centre(self, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        return self._code(torch.zeros(1, 1, self.latent, device=device)).expand(shape)

    def _code(self, base: Tensor) -> Tensor:
        # in bf16 rounding errors would accumulate over the d passes
        with torch.autocast(base.device.type, enabled=False):
            return self.flow().transform.inv(base)
