r"""Observation models $p(x|z)$: how stored pixels are observed, and what a network's output says about them."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import softplus

from oodgen.errors import UserError
from oodgen.models import distributions
from oodgen.models.distributions import LEVELS
from oodgen.noise import Noise

__all__ = ["Bernoulli", "Categorical", "Gaussian", "GaussianRows", "Likelihood", "LogisticMixture", "QuantisedGaussian"]

# A tenth of a grey level: below it a density grows without limit on pixels that never change.
FLOOR = 0.1 / (LEVELS - 1)
# The same for columns of numbers scaled to about one.
FLOOR_ROWS = 1e-3


class Likelihood(nn.Module, ABC):
    """How stored images (or rows) are observed as floats y, and the distribution of y given its parameters.

    What is said of images here holds for rows without their axes H and W.

    Attributes:
        discrete: Whether `log_prob` is never positive, which the adaptive likelihood ratio needs.
        bin: Width of the bin of a pixel whose mass `log_prob` gives, where white less black is 1: divided by it the
            mass is a density of pixels on [0, 1]. None where `log_prob` is that density; 1 where it is of other things,
            as of binary pixels.
    """

    discrete: ClassVar[bool]
    bin: ClassVar[float | None] = 1.0

    @abstractmethod
    def channels(self, colours: int) -> int:
        """The number P of parameter channels for images with so many colours, or rows with so many columns."""

    @abstractmethod
    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        """Stored uint8 images to float32 y that a network can eat, both (B, C, H, W)."""

    def scaled(self, image: Tensor) -> Tensor:
        """Images in [0, 1], which need not lie on a grey level, to the scale of y; differentiable."""
        return image

    @abstractmethod
    def forward(self, params: Tensor) -> Distribution:
        """Parameters (S, B, P, H, W) to a distribution whose `log_prob(y)` has shape (S, B)."""


class Bernoulli(Likelihood):
    r"""Binary pixels, $p(y_i = 1 | z) = \sigma(l_i)$.

    Havtorn et al. 2021 (table 1, caption) binarise dynamically, $y_i \sim \mathrm{Bernoulli}(x_i / 255)$; the values
    printed by Csiszárik et al. 2019 (Negative Sampling in Variational Autoencoders) fit soft targets.

    Arguments:
        pixels: "dynamic", $y_i = [u_i < x_i / 255]$ with $u_i$ uniform; "threshold", $y_i = [x_i \ge 128]$; "soft",
            $y_i = x_i / 255$, for which `log_prob` is a negative cross-entropy and no log-mass.

    Raises:
        UserError: `pixels` is none of these.
    """

    discrete: ClassVar[bool] = True

    def __init__(self, pixels: str = "dynamic") -> None:
        super().__init__()
        self.pixels = _one_of(pixels, ("dynamic", "threshold", "soft"))

    def channels(self, colours: int) -> int:
        return colours

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        if self.pixels == "dynamic":
            return (_uniform(x, noise) < x / 255).float()
        return x / 255 if self.pixels == "soft" else (x >= 128).float()

    def forward(self, params: Tensor) -> Distribution:
        return distributions.Bernoulli(params)


class Gaussian(Likelihood):
    r"""A Gaussian density of pixels scaled to [0, 1], $p(y_i | z) = \mathcal N(y_i; \sigma(l_i), \sigma^2)$.

    Pixels are scaled and nothing else (no dequantisation), as in the experiments of Csiszárik et al. 2019, whose
    printed values fit $\sigma = 1$ (the floor of $\tfrac12 \log 2\pi = 0.919$ nats per dimension).

    Arguments:
        sigma: The standard deviation; None learns one for each sub-pixel as $1/2550 + \log_2(1 + 2^r)$ of a further
            parameter r, which starts near one and stays above a tenth of a grey level.

    Raises:
        UserError: `sigma` is smaller than a tenth of a grey level.
    """

    discrete: ClassVar[bool] = False
    bin: ClassVar[float | None] = None

    def __init__(self, sigma: float | None = 1.0) -> None:
        super().__init__()
        self.sigma = _checked(sigma)

    def channels(self, colours: int) -> int:
        return colours if self.sigma is not None else 2 * colours

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        return x / 255

    def forward(self, params: Tensor) -> Distribution:
        return distributions.Gaussian(*_mean_and_sigma(params, self.sigma))


class GaussianRows(Likelihood):
    r"""A Gaussian density of each column of a row, $p(y_i | z) = \mathcal N(y_i; \mu_i, \sigma^2)$, the mean unbounded.

    Rows are observed as they are served: `oodgen.data.rows` scales them, and the density is one of scaled rows.
    Parameters are (S, B, P) with P = D or, if $\sigma$ is learned, 2D.

    Arguments:
        sigma: The standard deviation; None learns one for each column as $10^{-3} + \log_2(1 + 2^r)$ of a further
            parameter r, which starts near one; without a floor the density of a column whose values repeat has none.

    Raises:
        UserError: `sigma` is smaller than that floor.
    """

    discrete: ClassVar[bool] = False

    def __init__(self, sigma: float | None = None) -> None:
        super().__init__()
        if sigma is not None and not FLOOR_ROWS <= sigma < math.inf:
            raise UserError(f"sigma={sigma} is below {FLOOR_ROWS:g}: give a larger one, or null to learn it")
        self.sigma = sigma

    def channels(self, colours: int) -> int:
        return colours if self.sigma is not None else 2 * colours

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        return x.float()

    def forward(self, params: Tensor) -> Distribution:
        if self.sigma is not None:
            return distributions.Gaussian(params, self.sigma)
        mean, raw = params.float().chunk(2, 2)
        return distributions.Gaussian(mean, FLOOR_ROWS + softplus(raw, beta=math.log(2)))


class QuantisedGaussian(Likelihood):
    r"""The mass that $\mathcal N(\sigma(l_i), \sigma^2)$ puts on the bin of width 1/255 around a pixel.

    One of the decoders of Csiszárik et al. 2019. Their printed values are densities: they equal the mean negative
    log-mass in nats per dimension minus $\log 255$. They also equal those of their Gaussian decoder, which open end
    bins forbid: with $\sigma = 1$ these hold most of the mass, so that the number of black and white pixels decides.

    Arguments:
        sigma: The standard deviation; None learns one for each sub-pixel, see `Gaussian`.
        open_ends: Whether the bins of black and white reach to infinity, as they must for the masses to sum to one.

    Raises:
        UserError: `sigma` is smaller than a tenth of a grey level.
    """

    discrete: ClassVar[bool] = True
    bin: ClassVar[float | None] = 1 / (LEVELS - 1)

    def __init__(self, sigma: float | None = None, open_ends: bool = True) -> None:
        super().__init__()
        self.sigma, self.open_ends = _checked(sigma), open_ends

    def channels(self, colours: int) -> int:
        return colours if self.sigma is not None else 2 * colours

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        return x / 255

    def forward(self, params: Tensor) -> Distribution:
        return distributions.QuantisedGaussian(*_mean_and_sigma(params, self.sigma), self.open_ends)


class LogisticMixture(Likelihood):
    r"""A mixture of discretised logistics with coupled colours (PixelCNN++, Salimans et al. 2017, section 2.1).

    The likelihood of the natural images of Havtorn et al. 2021. y lies in [-1, 1].

    Arguments:
        mixtures: The number of components; ten in PixelCNN++ and in the code of Havtorn et al., unsaid in their paper.
        pixels: "exact", $y = 2x/255 - 1$, for which the masses of the 256 levels sum to one; "dequantised",
            $y = 2(x + u)/256 - 1$ with u uniform, as that code feeds both network and likelihood: its value is then the
            mass of a window of one bin's width around y.

    Raises:
        UserError: `pixels` is none of these, or `mixtures` is not positive.
    """

    discrete: ClassVar[bool] = True
    bin: ClassVar[float | None] = 1 / (LEVELS - 1)

    def __init__(self, mixtures: int = 10, pixels: str = "exact") -> None:
        super().__init__()
        if mixtures < 1:
            raise UserError(f"mixtures={mixtures} leaves no component: give 1 or more (PixelCNN++ has 10)")
        self.mixtures, self.pixels = mixtures, _one_of(pixels, ("exact", "dequantised"))

    def channels(self, colours: int) -> int:
        return self.mixtures * (1 + 2 * colours + colours * (colours - 1) // 2)

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        if self.pixels == "dequantised":
            return (x + _uniform(x, noise)) / 128 - 1
        return x / 127.5 - 1

    def scaled(self, image: Tensor) -> Tensor:
        return 2 * image - 1

    def forward(self, params: Tensor) -> Distribution:
        groups = params.unflatten(2, (-1, self.mixtures))
        # 1 + 2C + C(C-1)/2 groups, solved for C
        colours = math.isqrt(8 * groups.shape[2] + 1) // 2 - 1
        logits, means, log_scales, coupling = groups.split([1, colours, colours, groups.shape[2] - 1 - 2 * colours], 2)
        return distributions.LogisticMixture(logits.squeeze(2), means, log_scales, coupling)


class Categorical(Likelihood):
    r"""A softmax over the 256 levels of every sub-pixel, the likelihood of Likelihood Regret (Xiao et al. 2020)."""

    discrete: ClassVar[bool] = True
    bin: ClassVar[float | None] = 1 / (LEVELS - 1)

    def channels(self, colours: int) -> int:
        return LEVELS * colours

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        return x / 255

    def forward(self, params: Tensor) -> Distribution:
        return distributions.Categorical(params.unflatten(2, (-1, LEVELS)))


def _uniform(x: Tensor, noise: Noise) -> Tensor:
    return noise.uniform("x", (1, *x.shape), x.device)[0]


def _one_of(pixels: str, choices: tuple[str, ...]) -> str:
    if pixels not in choices:
        raise UserError(f"pixels={pixels!r} is not a way to observe pixels here: choose one of {', '.join(choices)}")
    return pixels


def _checked(sigma: float | None) -> float | None:
    if sigma is not None and not FLOOR <= sigma < math.inf:
        raise UserError(
            f"sigma={sigma} is below a tenth of a grey level, {FLOOR:.1e}: give a larger one, or null to learn it"
        )
    return sigma


def _mean_and_sigma(params: Tensor, sigma: float | None) -> tuple[Tensor, Tensor | float]:
    params = params.float()
    if sigma is not None:
        return params.sigmoid(), sigma
    mean, raw = params.chunk(2, 2)
    return mean.sigmoid(), FLOOR + softplus(raw, beta=math.log(2))
