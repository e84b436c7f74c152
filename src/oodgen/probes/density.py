r"""The log-density of each example, and its two parts for a flow."""

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from oodgen.models.density import Density
from oodgen.models.glow import Glow
from oodgen.noise import ExampleNoise
from oodgen.options import Count
from oodgen.probes.probe import Evidence

__all__ = ["FlowParts", "LogDensity"]


@dataclass(frozen=True)
class LogDensity:
    r"""$\frac1S \sum_s \log p(y_s)$ over S observations $y_s$ of an example, for instance dequantisations.

    Its expectation is a lower bound on the log-mass of the stored image (Theis et al. 2016, section 3.1); a larger S
    reduces its variance only.

    Evidence, in nats, named as the level k = 0 of `oodgen.probes.bounds.Bounds`: `l` (1, N) and `log_px` (1, N), equal
    for exact densities; for a variational model `l` is the ELBO with one sample of z for each s.

    Arguments:
        samples: S.
    """

    samples: Count = 1
    needs = Density

    def batch(self, model: Density) -> int:
        return 200

    def __call__(self, model: Density, x: Tensor, noise: ExampleNoise) -> Evidence:
        value, log_px = (torch.zeros(1, len(x), dtype=torch.float64, device=x.device) for _ in range(2))
        for s in range(self.samples):  # one pass each, so that memory does not grow with S
            draw = copy(noise)  # keeps subclasses of ExampleNoise
            draw.first_sample += s
            bound = model(model.observe(x, draw), draw)
            value += bound.elbo.double()
            log_px += bound.log_px.double()
        return {"l": (value / self.samples).float(), "log_px": (log_px / self.samples).float()}


@dataclass(frozen=True)
class FlowParts:
    r"""The two terms of a flow's $\log p(y) = \log \mathcal N(f(y); 0, I) + \log |\det \partial f / \partial y|$.

    Evidence, in nats: `base` (N,), the density of the codes, and `log_det` (N,), for the first observation y of
    `LogDensity`; so with one sample their sum is its `l` up to the constant of the grey levels.

    Source: Morningstar et al. 2021 (DoSE), whose three statistics of Glow are these and $\log p(y)$. The scales of the
        priors of factored-out codes belong to the determinant here, see `oodgen.models.flow_layers.Split`.
    """

    needs = Glow

    def batch(self, model: Glow) -> int:
        return 200

    def __call__(self, model: Glow, x: Tensor, noise: ExampleNoise) -> Evidence:
        base, log_det = model.log_density_parts(model.observe(x, noise))
        return {"base": base.float(), "log_det": log_det.float()}
