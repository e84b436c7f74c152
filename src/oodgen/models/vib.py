r"""The variational information bottleneck: a classifier of a stochastic code of the image.

$$q(z | x) = \mathcal N(\mu(x), \mathrm{diag}\, s(x)^2), \qquad
\mathbb E_{q(z|x)}[-\log p(y | z)] + \beta\, R(x), \qquad
R(x) = D_{KL}[q(z | x) \| p(z)], \quad p(z) = \mathcal N(0, I)$$

The expected rate bounds the mutual information, $I(Z; X) \le \mathbb E R$; a rate above those of training images
suggests that an image is out-of-distribution.

Source: Alemi et al. 2017 (Deep Variational Information Bottleneck), eq. 17; the rate as a score, Alemi et al. 2018
(Uncertainty in the Variational Information Bottleneck); papers/generative_ensembles, section 2.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from oodgen.models.classifier import Trunk, scaled
from oodgen.models.one_layer import diagonal_gaussian
from oodgen.models.vae import Isotropic
from oodgen.noise import Noise
from oodgen.options import Count

__all__ = ["VIB"]


class VIB(nn.Module):
    r"""The VIB classifier of images; logits are linear in z.

    Arguments:
        shape: Shape of an image, (C, H, W).
        classes: K.
        latent: d, the dimension of z.
        channels, hidden: Of the encoder's `Trunk`.

    Raises:
        UserError: what `Trunk` refuses.
    """

    def __init__(
        self, shape: Sequence[Count], classes: Count, latent: Count, channels: Sequence[Count], hidden: Count
    ) -> None:
        super().__init__()
        self.shape, self.classes = tuple(shape), classes
        self.encoder = nn.Sequential(Trunk(shape, channels, hidden), nn.Linear(hidden, 2 * latent))
        self.head = nn.Linear(latent, classes)
        self.prior = Isotropic()

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        return scaled(x)

    def code(self, y: Tensor) -> Normal:
        """q(z|y), a Gaussian of codes (B, d)."""
        return diagonal_gaussian(self.encoder(y))

    def features(self, y: Tensor) -> Tensor:
        r"""The posterior mean $\mu$, (B, d)."""
        return self.code(y).mean

    def logits(self, y: Tensor) -> Tensor:
        r"""Logits of $\mu$, (B, K)."""
        return self.head(self.features(y))

    def rate(self, y: Tensor) -> Tensor:
        r"""$R = \frac12 \sum_j (\mu_j^2 + s_j^2 - 1 - \log s_j^2)$ in nats, (B,)."""
        return self._rate(self.code(y))

    def encode(self, y: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of a draw of z, and the rate (B,)."""
        q = self.code(y)
        z = q.mean + q.stddev * noise.normal("q1", (1, *q.mean.shape), y.device)[0]
        return self.head(z), self._rate(q)

    def _rate(self, q: Normal) -> Tensor:
        return kl_divergence(q, self.prior()).sum(1)
