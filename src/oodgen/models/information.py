r"""How much a layer of latent variables says of the examples: whether it is used, or has collapsed onto its prior."""

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from oodgen.noise import Noise

__all__ = ["active_units", "mutual_information"]

ROWS = 64  # samples whose density under every posterior is held at once


def active_units(q: Normal, threshold: float = 0.01) -> Tensor:
    r"""The number of elements whose posterior mean varies among examples by more than the threshold, int64.

    $\#\{j : \mathrm{Var}_x\, \mathbb E_{q(z_j | x)} z_j > 0.01\}$ of a layer's posteriors (N, *latent), N > 1.

    Source: Burda et al. 2016 (Importance Weighted Autoencoders), section 4.2.
    """
    return (q.mean.var(0) > threshold).sum()


def mutual_information(q: Normal, noise: Noise) -> Tensor:
    r"""What a layer's code tells of which example it is, nats, float64.

    $$I_q(x; z) = \mathbb E_x \mathbb E_{q(z | x)} \log \frac{q(z | x)}{q(z)} \approx
      \frac1N \sum_n \Big[ \log q(z_n | x_n) - \log \frac1N \sum_m q(z_n | x_m) \Big], \qquad z_n \sim q(z | x_n),$$

    with the N examples themselves for the data: a code that tells them all apart has $\log N$, and no code more. It is
    0 where the posterior does not depend on the example, whatever it is. One code for each example, in O(N^2 d).

    Arguments:
        q: A layer's posteriors, (N, *latent).
        noise: Where $z_n$ comes from, site "information".

    Source: Hoffman & Johnson 2016 (ELBO surgery), eq. 9, with one sample for each example.
    """
    mean, scale = q.mean.double().flatten(1), q.stddev.double().flatten(1)
    z = mean + scale * noise.normal("information", (1, *mean.shape), mean.device)[0]
    precision, offset = scale**-2, -scale.log().sum(1) - (mean**2 / scale**2).sum(1) / 2
    lean = mean * precision
    total = torch.zeros((), dtype=torch.float64, device=mean.device)
    for i in range(0, len(z), ROWS):
        part = z[i : i + ROWS]
        # the square multiplied out, so that two products of matrices give all pairs; (rows, N), up to a constant
        log_q = offset + part @ lean.T - part**2 @ precision.T / 2
        total += (log_q.diagonal(i) - log_q.logsumexp(1)).sum()
    return total / len(z) + math.log(len(z))
