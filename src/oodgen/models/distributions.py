r"""Distributions over images that torch.distributions lacks.

Parameters have shape (S, B, ..., H, W) for S samples of the latent variables and B images, observed images y have shape
(B, C, H, W), and `log_prob(y)` has shape (S, B): nats, summed over the image, in float32 for parameters of any
precision. `mean` is the expected image in [0, 1], shape (S, B, C, H, W), and differentiable.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, distributions
from torch.distributions import Distribution, Independent, constraints
from torch.nn.functional import cross_entropy, logsigmoid, softplus

__all__ = ["LEVELS", "Bernoulli", "Categorical", "Gaussian", "LogisticMixture", "QuantisedGaussian"]

LEVELS = 256
HALF_BIN = 0.5 / (LEVELS - 1)


class Bernoulli(Independent):
    r"""Independent Bernoulli pixels.

    $$\log p(y) = \sum_i y_i \log \mu_i + (1 - y_i) \log(1 - \mu_i), \qquad \mu = \sigma(l)$$

    For targets between 0 and 1 the sum is a negative cross-entropy: not positive either, but not a log-probability.

    Arguments:
        logits: $l$, shape (S, B, C, H, W).
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__(distributions.Bernoulli(logits=logits.float(), validate_args=False), 3, validate_args=False)


class Gaussian(Independent):
    r"""Independent Gaussian pixels, or columns of rows: a density, whose logarithm may be positive.

    $$\log p(y) = -\sum_i \frac{(y_i - \mu_i)^2}{2 \sigma_i^2} + \log \sigma_i + \tfrac12 \log 2\pi$$

    Arguments:
        mean: $\mu$, in [0, 1] with shape (S, B, C, H, W), or any numbers with shape (S, B, D).
        sigma: $\sigma$, a number or a tensor of the same shape.
    """

    def __init__(self, mean: Tensor, sigma: Tensor | float) -> None:
        sigma = sigma.float() if isinstance(sigma, Tensor) else sigma
        normal = distributions.Normal(mean.float(), sigma, validate_args=False)
        super().__init__(normal, mean.ndim - 2, validate_args=False)


class QuantisedGaussian(Distribution):
    r"""Independent Gaussian pixels rounded to the 256 levels 0, 1/255, ..., 1: a probability mass.

    $$P(y) = \prod_i \Phi\Big(\frac{y_i - \mu_i + h}{\sigma_i}\Big) - \Phi\Big(\frac{y_i - \mu_i - h}{\sigma_i}\Big),
      \qquad h = \frac{1}{510},$$

    where the bins of 0 and 1 extend to infinity, unless `open_ends` is false. Numerically each bin is reflected into
    the lower tail, where $\Phi(a) = \tfrac12 e^{-a^2/2}\, \mathrm{erfcx}(-a/\sqrt2)$ is accurate at any depth; for a
    bin much narrower than $\sigma$, where the difference would cancel, a series about its centre is used.

    Arguments:
        mean: $\mu$ in [0, 1], shape (S, B, C, H, W); returned as the expected image, ignoring clipping at the ends.
        sigma: $\sigma \ge 1/2550$, a number or a tensor of the same shape; erfcx overflows far below that.
        open_ends: Whether the bins of 0 and 1 reach to infinity. Only then do the masses of the levels sum to one.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, mean: Tensor, sigma: Tensor | float, open_ends: bool = True) -> None:
        self.loc, self.open_ends = mean.float(), open_ends
        self.sigma = torch.as_tensor(sigma, dtype=torch.float32, device=mean.device)
        super().__init__(mean.shape[:2], mean.shape[2:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    def log_prob(self, y: Tensor) -> Tensor:
        distance, width = (y - self.loc).abs(), 2 * HALF_BIN / self.sigma
        centre = distance / self.sigma
        high, low = centre - width / 2, centre + width / 2  # the bin is [-low, -high] in units of sigma
        inner = (y > HALF_BIN) & (y < 1 - HALF_BIN) if self.open_ends else torch.ones_like(y, dtype=torch.bool)
        rest = torch.where(inner, (-width * centre).exp() * torch.special.erfcx(low / math.sqrt(2)), 0.0)
        # the floor only keeps the gradient of the branch that `where` discards finite
        mass = (torch.special.erfcx(high / math.sqrt(2)) - rest).clamp_min(1e-30)
        wide = -(high**2) / 2 + (mass / 2).log()
        narrow = -(centre**2) / 2 + width.log() + width**2 * (centre**2 - 1) / 24 - math.log(2 * math.pi) / 2
        return torch.where(inner & (width * centre.clamp_min(1) < 0.1), narrow, wide).sum((2, 3, 4))


class LogisticMixture(Distribution):
    r"""A mixture of K discretised logistics for each pixel, with linear coupling of its colours: a probability mass.

    $$P(y) = \prod_{h,w} \sum_k \pi_k \prod_c \Big[\sigma\Big(\frac{y_c - m_{ck} + 1/255}{s_{ck}}\Big)
      - \sigma\Big(\frac{y_c - m_{ck} - 1/255}{s_{ck}}\Big)\Big], \qquad
      m_{ck} = \mu_{ck} + \sum_{j<c} \tanh(a_{cjk})\, y_j,$$

    for y on the levels -1, -1 + 2/255, ..., 1, where the bins of -1 and 1 are open to their side (PixelCNN++, Salimans
    et al. 2017, section 2). With $a, b$ the two arguments, the mass is taken from the identity
    $\sigma(a) - \sigma(b) = \sigma(a)\, \sigma(-b)\, (1 - e^{b - a})$, accurate at any scale and distance.

    Arguments:
        logits: $\log \pi$ up to a constant, shape (S, B, K, H, W).
        means: $\mu$, shape (S, B, C, K, H, W).
        log_scales: $\log s$, shape (S, B, C, K, H, W); held above -7 as in the authors' code, and below 50, where a
            component is flat already and beyond which $1 / s$ would vanish.
        coupling: $a$ in the order (1,0), (2,0), (2,1), ..., shape (S, B, C(C-1)/2, K, H, W).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, logits: Tensor, means: Tensor, log_scales: Tensor, coupling: Tensor) -> None:
        self.logits, self.means = logits.float(), means.float()
        self.log_scales, self.coupling = log_scales.float().clamp(-7, 50), coupling.float()
        colours, _, *size = means.shape[2:]
        super().__init__(means.shape[:2], torch.Size([colours, *size]), validate_args=False)

    def location(self, channel: int, before: list[Tensor]) -> Tensor:
        r"""$m_{ck}$ of one channel given the channels before it, shape (S, B, K, H, W)."""
        location, first = self.means[:, :, channel], channel * (channel - 1) // 2
        for j, value in enumerate(before):
            location = location + self.coupling[:, :, first + j].tanh() * value
        return location

    @property
    def mean(self) -> Tensor:
        r"""The mixture of the components' expectations, each clipped to the range of a pixel.

        $$\mathbb E[\mathrm{clip}(X)] = -1 + s\, \Big[\mathrm{softplus}\Big(\frac{m + 1}{s}\Big)
          - \mathrm{softplus}\Big(\frac{m - 1}{s}\Big)\Big]$$

        Exact up to rounding to the levels (at most half a bin) and clipping of a colour that others depend on.
        """
        expected: list[Tensor] = []
        for channel in range(self.means.shape[2]):
            m, s = self.location(channel, expected), self.log_scales[:, :, channel].exp()
            expected.append((s * (softplus((m + 1) / s) - softplus((m - 1) / s)) - 1).clamp(-1, 1))
        weights = self.logits.softmax(2)
        # a sum of weights may round to a little more than one
        return torch.stack([(1 + (weights * value).sum(2)).div(2).clamp(0, 1) for value in expected], 2)

    def log_prob(self, y: Tensor) -> Tensor:
        values = [y[:, c].unsqueeze(1) for c in range(y.shape[1])]
        total = self.logits.log_softmax(2)
        for c, value in enumerate(values):  # colour by colour: temporaries stay at (S, B, K, H, W)
            inverse = (-self.log_scales[:, :, c]).exp()
            distance = value - self.location(c, values[:c])
            below = logsigmoid(inverse * (distance + 2 * HALF_BIN))
            above = logsigmoid(-inverse * (distance - 2 * HALF_BIN))
            inside = (-torch.expm1(-4 * HALF_BIN * inverse)).log()
            # an open end bin has the factor of its one edge only
            closed_above, closed_below = value < 0.999, value > -0.999
            total = total + below * closed_above + above * closed_below + inside * (closed_above & closed_below)
        return total.logsumexp(2).sum((2, 3))


class Categorical(Distribution):
    r"""An independent softmax over the 256 levels 0, 1/255, ..., 1 of every sub-pixel: a probability mass.

    $$\log P(y) = \sum_i l_{i, 255 y_i} - \log \sum_v e^{l_{iv}}$$

    Arguments:
        logits: $l$, shape (S, B, C, 256, H, W).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.float()
        colours, _, *size = logits.shape[2:]
        super().__init__(logits.shape[:2], torch.Size([colours, *size]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        levels = torch.linspace(0, 1, LEVELS, device=self.logits.device).view(LEVELS, 1, 1)
        return (self.logits.softmax(3) * levels).sum(3).clamp(0, 1)

    def log_prob(self, y: Tensor) -> Tensor:
        index = (y * (LEVELS - 1)).round().long().expand(*self.batch_shape, -1, -1, -1)
        nats = cross_entropy(self.logits.flatten(0, 2), index.flatten(0, 2), reduction="none")
        return -nats.unflatten(0, (*self.batch_shape, -1)).sum((2, 3, 4))
