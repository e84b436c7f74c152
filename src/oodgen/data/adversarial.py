r"""An out set made by an attack on the trained model: noise after one gradient step that raises the model's score.

$$x' = \mathrm{clip}\big(x + \epsilon\, \mathrm{sign}\, \nabla_x s(x)\big), \qquad
x = \mathrm{clip}\big(\mathcal N(m, \sigma^2 I)\big),$$

on [0, 1], where s is the model's in-distribution score: a bound on $\log p$, or a critic's value.

The authors' code makes no valid images: for a VAE it adds 0.3 times the sign of the gradient at a test image to
$\mathcal N(0, 1)$, without clipping. The log-likelihood of a Bernoulli with soft targets is linear in y and unbounded
outside of [0, 1], which is why their likelihood ranks this set above the test images.

Source: Choi, Jang, Alemi 2019, section 4 (papers/generative_ensembles, section 5.7); Goodfellow, Shlens, Szegedy 2015
(the fast gradient sign method).
"""

from dataclasses import dataclass
from typing import Annotated, final

import numpy as np

from oodgen.data.transforms import gaussian_noise
from oodgen.options import Count, NonNegative

__all__ = ["Attack", "adversarial"]


@final
@dataclass(frozen=True)
class Attack:
    """An out set that depends on the model; `oodgen.evaluation.attack` computes the gradient.

    Arguments:
        name: The name of the set.
        eps: The step size, for pixels in [0, 1].
        mean, sigma: Of the noise before clipping.
        count: Number of images, at most that of the inlier's test split, which is taken for None.
        samples: Samples of the latent variables over which the gradient is averaged.
    """

    name: str
    eps: float
    mean: float
    sigma: float
    count: int | None
    samples: int

    def start(self, inlier: np.ndarray) -> np.ndarray:
        """The noise x, uint8, of the shape of the inlier's test images; that of `gaussian_noise`."""
        return gaussian_noise(self.mean, self.sigma).apply(inlier[: self.count], 0)

    def step(self, x: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """The images x' (uint8) from x (uint8) and a gradient, of which only the signs matter."""
        return np.rint(x + 255 * self.eps * np.sign(direction)).clip(0, 255).astype(np.uint8)


def adversarial(
    eps: Annotated[float, "> 0", "<= 1"] = 0.3,
    mean: float = 0.5,
    sigma: NonNegative = 0.25,
    count: Count | None = None,
    samples: Count = 16,
) -> Attack:
    """See `Attack`."""
    return Attack("adversarial", eps, mean, sigma, count, samples)
