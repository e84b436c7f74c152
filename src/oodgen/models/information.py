r"""Measures of posterior collapse: active units of a layer of latent variables and its mutual information with x."""

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from oodgen.noise import Noise

__all__ = ["active_units", "mutual_information"]

ROWS = 64  # samples per chunk, whose densities under all N posteriors are held at once


def active_units(q: Normal, threshold: float = 0.01) -> Tensor:
    r"""The number of elements whose posterior mean has a variance over examples above the threshold, int64.

    $\#\{j : \mathrm{Var}_x\, \mathbb E_{q(z_j | x)} z_j > 0.01\}$ of a layer's posteriors (N, *latent), N > 1.

    Source: Burda et al. 2016 (Importance Weighted Autoencoders), section 4.2.
    """
    return (q.mean.var(0) > threshold).sum()


def mutual_information(q: Normal, noise: Noise) -> Tensor:
    r"""The mutual information of a layer's latent variable and the example, nats, float64.

    $$I_q(x; z) = \mathbb E_x \mathbb E_{q(z | x)} \log \frac{q(z | x)}{q(z)} \approx
      \frac1N \sum_n \Big[ \log q(z_n | x_n) - \log \frac1N \sum_m q(z_n | x_m) \Big], \qquad z_n \sim q(z | x_n),$$

    with the N examples as the data distribution: at most $\log N$, reached if z identifies the example, and 0 if the
    posterior does not depend on it. One sample for each example; O(N^2 d).

    Arguments:
        q: A layer's posteriors, (N, *latent).
        noise: Source of $z_n$, site "information".

    Source: Hoffman & Johnson 2016 (ELBO surgery), eq. 9, with one sample for each example.
    """
    mean, scale = q.mean.double().flatten(1), q.stddev.double().flatten(1)
    z = mean + scale * noise.normal("information", (1, *mean.shape), mean.device)[0]
    precision, offset = scale**-2, -scale.log().sum(1) - (mean**2 / scale**2).sum(1) / 2
    lean = mean * precision
    total = torch.zeros((), dtype=torch.float64, device=mean.device)
    for i in range(0, len(z), ROWS):
        part = z[i : i + ROWS]
        # log q(z_n | x_m) of all pairs up to a constant, (rows, N), by two matrix products
        log_q = offset + part @ lean.T - part**2 @ precision.T / 2
        total += (log_q.diagonal(i) - log_q.logsumexp(1)).sum()
    return total / len(z) + math.log(len(z))
