r"""Observation models $p(x|z)$: stored pixels to y, and the distribution of y given a network's output."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import softplus

from oodgen.errors import UserError
from oodgen.models import distributions
from oodgen.models.distributions import LEVELS
from oodgen.noise import Noise
from oodgen.options import Count, Positive

__all__ = ["Bernoulli", "Categorical", "Gaussian", "GaussianRows", "Likelihood", "LogisticMixture", "QuantisedGaussian"]

# A tenth of a grey level, the smallest sigma: the density of constant pixels would otherwise grow without limit.
FLOOR = 0.1 / (LEVELS - 1)
# The same for columns of rows, whose scale is about one.
FLOOR_ROWS = 1e-3


class Likelihood(nn.Module, ABC):
    """The transform of stored images (or rows) to observed floats y, and the distribution of y given its parameters.

    Shapes are those of images; rows have no axes H and W.

    Attributes:
        discrete: Whether `log_prob` is never positive, which the adaptive likelihood ratio needs.
        bin: Width, on pixels scaled to [0, 1], of the bin whose probability mass `log_prob` gives: mass / bin is the
            density. None where `log_prob` is a density; 1 where it is a mass of something else, as of binary pixels.
    """

    discrete: ClassVar[bool]
    bin: ClassVar[float | None] = 1.0

    @abstractmethod
    def parameter_channels(self, colours: int) -> int:
        """P, the number of parameter channels for images of C = `colours` channels, or rows of as many columns."""

    @abstractmethod
    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        """Stored uint8 images to float32 y, the networks' input, both (B, C, H, W)."""

    def from_unit_interval(self, image: Tensor) -> Tensor:
        """Images with any values in [0, 1] to the scale of y, differentiable; see `observe` for stored ones."""
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

    def __init__(self, pixels: Literal["dynamic", "threshold", "soft"] = "dynamic") -> None:
        super().__init__()
        self.pixels = _one_of(pixels, ("dynamic", "threshold", "soft"))

    def parameter_channels(self, colours: int) -> int:
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
            output r; it starts near one and is at least a tenth of a grey level.

    Raises:
        UserError: `sigma` is smaller than a tenth of a grey level.
    """

    discrete: ClassVar[bool] = False
    bin: ClassVar[float | None] = None

    def __init__(self, sigma: Positive | None = 1.0) -> None:
        super().__init__()
        self.sigma = _checked(sigma)

    def parameter_channels(self, colours: int) -> int:
        return colours if self.sigma is not None else 2 * colours

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        return x / 255

    def forward(self, params: Tensor) -> Distribution:
        return distributions.Gaussian(*_mean_and_sigma(params, self.sigma))


class GaussianRows(Likelihood):
    r"""A Gaussian density of each column of a row, $p(y_i | z) = \mathcal N(y_i; \mu_i, \sigma^2)$, with unbounded
    mean.

    y = x: the density is that of the rows as scaled by `oodgen.data.rows`. Parameters are (S, B, P) with P = D or, if
    $\sigma$ is learned, 2D.

    Arguments:
        sigma: The standard deviation; None learns one for each column as $10^{-3} + \log_2(1 + 2^r)$ of a further
            output r; it starts near one. The floor bounds the density of columns with repeated values.

    Raises:
        UserError: `sigma` is smaller than the floor.
    """

    discrete: ClassVar[bool] = False

    def __init__(self, sigma: Positive | None = None) -> None:
        super().__init__()
        if sigma is not None and sigma < FLOOR_ROWS:
            raise UserError(f"sigma={sigma} must be at least {FLOOR_ROWS:g}; null learns it")
        self.sigma = sigma

    def parameter_channels(self, colours: int) -> int:
        return colours if self.sigma is not None else 2 * colours

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        return x.float()

    def forward(self, params: Tensor) -> Distribution:
        if self.sigma is not None:
            return distributions.Gaussian(params, self.sigma)
        mean, raw = params.float().chunk(2, 2)
        return distributions.Gaussian(mean, FLOOR_ROWS + softplus(raw, beta=math.log(2)))


class QuantisedGaussian(Likelihood):
    r"""The probability mass of $\mathcal N(\sigma(l_i), \sigma^2)$ on the bin of width 1/255 around a pixel value.

    One of the decoders of Csiszárik et al. 2019. Their printed values are densities: they equal the mean negative
    log-mass in nats per dimension minus $\log 255$. They also equal those of their Gaussian decoder, which is
    impossible with open end bins: with $\sigma = 1$ these hold most of the mass, and the number of black and white
    pixels decides.

    Arguments:
        sigma: The standard deviation; None learns one for each sub-pixel, see `Gaussian`.
        open_ends: Whether the bins of black and white extend to infinity; only then do the masses sum to one.

    Raises:
        UserError: `sigma` is smaller than a tenth of a grey level.
    """

    discrete: ClassVar[bool] = True
    bin: ClassVar[float | None] = 1 / (LEVELS - 1)

    def __init__(self, sigma: Positive | None = None, open_ends: bool = True) -> None:
        super().__init__()
        self.sigma, self.open_ends = _checked(sigma), open_ends

    def parameter_channels(self, colours: int) -> int:
        return colours if self.sigma is not None else 2 * colours

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        return x / 255

    def forward(self, params: Tensor) -> Distribution:
        return distributions.QuantisedGaussian(*_mean_and_sigma(params, self.sigma), self.open_ends)


class LogisticMixture(Likelihood):
    r"""A mixture of discretised logistics with coupled colours (PixelCNN++, Salimans et al. 2017, section 2.1).

    The likelihood of the natural images of Havtorn et al. 2021. y lies in [-1, 1].

    Arguments:
        mixtures: The number of components; ten in PixelCNN++ and in the code of Havtorn et al.
        pixels: "exact", $y = 2x/255 - 1$, for which the masses of the 256 levels sum to one; "dequantised",
            $y = 2(x + u)/256 - 1$ with u uniform, as in that code: the value is then the mass of an interval of one
            bin's width around y.

    Raises:
        UserError: `pixels` is none of these.
    """

    discrete: ClassVar[bool] = True
    bin: ClassVar[float | None] = 1 / (LEVELS - 1)

    def __init__(self, mixtures: Count = 10, pixels: Literal["exact", "dequantised"] = "exact") -> None:
        super().__init__()
        self.mixtures, self.pixels = mixtures, _one_of(pixels, ("exact", "dequantised"))

    def parameter_channels(self, colours: int) -> int:
        return self.mixtures * (1 + 2 * colours + colours * (colours - 1) // 2)

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        if self.pixels == "dequantised":
            return (x + _uniform(x, noise)) / 128 - 1
        return x / 127.5 - 1

    def from_unit_interval(self, image: Tensor) -> Tensor:
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

    def parameter_channels(self, colours: int) -> int:
        return LEVELS * colours

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        return x / 255

    def forward(self, params: Tensor) -> Distribution:
        return distributions.Categorical(params.unflatten(2, (-1, LEVELS)))


def _uniform(x: Tensor, noise: Noise) -> Tensor:
    return noise.uniform("x", (1, *x.shape), x.device)[0]


def _one_of(pixels: str, choices: tuple[str, ...]) -> str:
    if pixels not in choices:
        raise UserError(f"pixels={pixels!r} is not one of: {', '.join(choices)}")
    return pixels


def _checked(sigma: float | None) -> float | None:
    if sigma is not None and sigma < FLOOR:
        raise UserError(f"sigma={sigma} must be at least {FLOOR:.1e}, a tenth of a grey level; null learns it")
    return sigma


def _mean_and_sigma(params: Tensor, sigma: float | None) -> tuple[Tensor, Tensor | float]:
    params = params.float()
    if sigma is not None:
        return params.sigmoid(), sigma
    mean, raw = params.chunk(2, 2)
    return mean.sigmoid(), FLOOR + softplus(raw, beta=math.log(2))
