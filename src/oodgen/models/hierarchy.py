r"""Hierarchical variational autoencoders and their bounds $\mathcal L^{>k}$.

Latent variables $z_1, \dots, z_L$, $z_1$ next to the data $z_0 = x$. Generative model and bottom-up inference are

$$p(x, z) = p(x | z_1) \prod_{i<L} p(z_i | z_{i+1})\, p(z_L), \qquad
q(z | x) = q(z_1 | x) \prod_{i \ge 2} q(z_i | z_{i-1}),$$

with diagonal Gaussians and, as an option, skip connections $z_i \to z_{i+2}$ in both networks. The bound of level k
trusts the posterior above k only:

$$\mathcal L^{>k} = \mathbb E_{p(z_{\le k} | z_{>k})\, q(z_{>k} | x)}
\Big[ \log p(x | z_1) + \sum_{i>k} \log p(z_i | z_{i+1}) - \log q(z_i | z_{i-1}) \Big], \qquad
\mathcal L^{>0} = \mathcal L .$$

Source: Havtorn et al. 2021, eqs. 3-6 (papers/hierarchical_llr).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from oodgen.errors import UserError
from oodgen.models.density import Bound, Latent
from oodgen.models.likelihoods import Likelihood
from oodgen.nets import Lower, Stage
from oodgen.noise import Noise

__all__ = ["BottomUpVAE", "Layer"]


@dataclass(frozen=True)
class Layer:
    """One stochastic layer and the deterministic blocks before it.

    Arguments:
        latent: Channels of a convolutional latent variable, or its dimension if dense.
        dense: The latent variable is a vector.
        channels, kernel, blocks: Of the residual blocks.
        stride: Reduction of the feature map on the way up.
    """

    latent: int
    dense: bool = False
    channels: int = 64
    kernel: int = 3
    blocks: int = 3
    stride: int = 1

    def __post_init__(self) -> None:
        for name in ("latent", "channels", "kernel", "blocks", "stride"):
            if getattr(self, name) < 1:
                raise UserError(f"model.layers: {name}={getattr(self, name)} must be at least 1")
        if self.kernel % 2 == 0:
            raise UserError(f"model.layers: kernel={self.kernel} must be odd, or a map would not keep its size")


class Gaussian(nn.Module):
    r"""A diagonal Gaussian given a neighbouring layer: Stage, then mean and scale.

    The scale is $\frac1\beta \log(1 + e^{\beta a})$ with $\beta = \ln 2$, one at a = 0; it is the variance (the paper's
    words) or the standard deviation (the authors' code).
    """

    def __init__(self, stage: Stage, head: Lower, scale: Literal["variance", "deviation"]) -> None:
        super().__init__()
        if scale not in ("variance", "deviation"):
            raise UserError(f"model.scale={scale!r} is not one of: variance, deviation")
        self.stage, self.head, self.scale = stage, head, scale

    def forward(self, z: Tensor, beyond: Tensor | None = None) -> Normal:
        """The distribution over (S, B, *latent), given z and, for a skip connection, the variable beyond it."""
        mean, raw = _rows(self.head, _rows(self.stage, z, beyond)).float().chunk(2, dim=2)
        # contiguous: on a strided half the CPU kernel is ten times slower
        scale = F.softplus(raw.contiguous(), beta=math.log(2)) + 1e-6
        return Normal(mean, scale.sqrt() if self.scale == "variance" else scale, validate_args=False)


def _rows(module: nn.Module, *inputs: Tensor | None) -> Tensor:
    """Apply a module to inputs (S, B, ...) as to S * B rows."""
    samples, batch = next(x.shape[:2] for x in inputs if x is not None)
    return module(*(None if x is None else x.flatten(0, 1) for x in inputs)).unflatten(0, (samples, batch))


def _join(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate along the sample axis, so that one call of a network serves several levels."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _split(p: Normal, sizes: Sequence[int]) -> list[Normal]:
    parts = zip(p.loc.split(list(sizes)), p.scale.split(list(sizes)), strict=True)
    return [Normal(mean, scale, validate_args=False) for mean, scale in parts]


class BottomUpVAE(Latent):
    r"""The hierarchical VAE with bottom-up inference (HVAE).

    Arguments:
        shape: Image shape (C, H, W).
        layers: Layers 1 to L, lowest first; see `Layer` for their fields.
        likelihood: Observation model $p(x | z)$.
        skips: Connections $z_i \to z_{i+2}$ in both networks. (In the authors' code most of them are inert.)
        stride_first: Reduce in the first residual block of a stage instead of the last; see `Stage`.
        scale: What the softplus output of a Gaussian is, "variance" or "deviation".

    Source: Havtorn et al. 2021, section 3 and appendix B.
    """

    def __init__(
        self,
        shape: Sequence[int],
        layers: Sequence[Mapping[str, int | bool]],
        likelihood: Likelihood,
        skips: bool = True,
        stride_first: bool = False,
        scale: Literal["variance", "deviation"] = "variance",
    ) -> None:
        super().__init__(shape, likelihood)
        specs = [Layer(**layer) for layer in layers]  # type: ignore[arg-type]
        if not specs:
            raise UserError("model.layers is empty; a hierarchy needs at least one layer")
        self.depth = len(specs)

        sizes = [(self.shape[1], self.shape[2])]
        for spec in specs:
            sizes.append((-(-sizes[-1][0] // spec.stride), -(-sizes[-1][1] // spec.stride)))
        latents = [(s.latent,) if s.dense else (s.latent, *size) for s, size in zip(specs, sizes[1:], strict=True)]
        self.latents = [self.shape, *latents]

        def stage(i: int, up: bool) -> Stage:
            source, skip = (i, i + 1) if up else (i - 1, i - 2)
            spec = specs[i - 1]
            has_skip = skips and 0 <= skip <= self.depth
            ends = (sizes[i], sizes[i - 1]) if up else (sizes[i - 1], sizes[i])
            beyond = self.latents[skip] if has_skip else None
            blocks = (spec.channels, spec.kernel, spec.blocks, spec.stride, stride_first)
            return Stage(self.latents[source], beyond, *blocks, *ends, up)

        # posterior[i - 1] is q(z_i | z_{i-1}); prior[i - 1] is p(z_i | z_{i+1}); the top prior is standard
        self.posterior = nn.ModuleList(
            Gaussian(stage(i, False), Lower(specs[i - 1].channels, sizes[i], self.latents[i], 2), scale)
            for i in range(1, self.depth + 1)
        )
        self.prior = nn.ModuleList(
            Gaussian(stage(i + 1, True), Lower(specs[i].channels, sizes[i], self.latents[i], 2), scale)
            for i in range(1, self.depth)
        )
        pixels = (likelihood.channels(self.shape[0]), *sizes[0])
        self.decoder = nn.ModuleList([stage(1, True), Lower(specs[0].channels, sizes[0], pixels, 1)])

    def bounds(
        self,
        y: Tensor,
        noise: Noise,
        ks: Sequence[int],
        samples: Sequence[int],
        up: Literal["mean", "sample"] = "mean",
        down: Literal["sample", "mode"] = "sample",
    ) -> list[Bound]:
        r"""L^{>k} for each k of `ks`, 0 <= k <= L, each with its number of `samples`.

        Everything that two levels have in common is computed once: the path of posterior means, and each network,
        which is called once with the rows of all levels. All levels use the same noise for the same variable.

        Arguments:
            y: Observed images, shape (B, C, H, W).
            noise: Where the random numbers come from.
            up: What stands for $z_{\le k}$ on the way up to $q(z_{k+1} | \cdot)$: their posterior "mean" (the paper's
                section 3.2) or a "sample".
            down: How $z_{\le k}$ is drawn on the way down: a "sample" of p (eq. 5) or its "mode" (the authors' script).

        Raises:
            ValueError: k is not in 0..L, or `ks` and `samples` differ in length.
        """
        z, log_q = self._upward(y, noise, ks, samples, up)
        p_x, log_ratios = self._downward(z, log_q, noise, samples, down)
        log_px = p_x.log_prob(y).split(list(samples))
        return [Bound(log_px[j], tuple(log_ratios[j])) for j in range(len(ks))]

    def reconstruct(self, y: Tensor, noise: Noise, k: int) -> Tensor:
        z, log_q = self._upward(y, noise, (k,), (1,), "mean")
        return self._downward(z, log_q, noise, (1,), "sample")[0].mean[0]

    def generate(self, count: int, noise: Noise) -> Tensor:
        # with k = L everything comes from the prior, and the image is not looked at
        y = torch.zeros(count, *self.shape, device=next(self.parameters()).device)
        return self.reconstruct(y, noise, self.depth)

    def posteriors(self, y: Tensor, noise: Noise | None = None, samples: int = 1) -> list[Normal]:
        """See `OpenHierarchy`."""
        return self._climb(y, noise, samples)[1]

    def explain(self, y: Tensor, posteriors: Sequence[Normal | None], noise: Noise, samples: int = 1) -> Bound:
        """See `OpenHierarchy`."""
        if len(posteriors) != self.depth:
            raise ValueError(f"{len(posteriors)} posteriors do not fit a hierarchy of {self.depth} layers")
        z, log_q = [y.expand(samples, *y.shape)], {}
        for i, q in enumerate(posteriors, 1):
            shape = (samples, len(y), *self.latents[i])
            if q is None:
                z.append(y.new_zeros(shape))  # only its shape counts
            else:
                z.append(q.mean + q.stddev * noise.normal(f"q{i}", shape, y.device))
                log_q[i] = q.log_prob(z[i])
        p_x, log_ratios = self._downward([z], [log_q], noise, (samples,), "sample")
        return Bound(p_x.log_prob(y), tuple(log_ratios[0]))

    def _upward(
        self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], up: str
    ) -> tuple[list[list[Tensor]], list[dict[int, Tensor]]]:
        """For each k: z_0..z_L on its way up, where z_1..z_k only lead to z_{k+1}; and log q(z_i | .) for i > k."""
        if len(ks) != len(samples) or not all(0 <= k <= self.depth for k in ks):
            raise ValueError(f"levels {ks} with samples {samples} do not fit a hierarchy of {self.depth} layers")
        if up == "sample":
            # levels with equal numbers of samples have the same ones: they share the whole way
            climbs = {s: self._climb(y, noise, s) for s in dict.fromkeys(samples)}
            log_qs = {
                s: [q.log_prob(z) for z, q in zip(path[1:], found, strict=True)] for s, (path, found) in climbs.items()
            }
            return [list(climbs[s][0]) for s in samples], [
                {i: value for i, value in enumerate(log_qs[s], 1) if i > k} for k, s in zip(ks, samples, strict=True)
            ]
        x = y.unsqueeze(0)
        mean = [x]  # the shared path of posterior means
        z: list[list[Tensor]] = [[x.expand(s, *y.shape)] for s in samples]
        log_q: list[dict[int, Tensor]] = [{} for _ in ks]
        for i in range(1, self.depth + 1):
            # level k leaves the shared path at z_{k+1}
            own = [j for j, k in enumerate(ks) if k + 1 < i]
            shared = any(k + 1 >= i for k in ks)
            paths = [mean] * shared + [z[j] for j in own]
            sizes = [1] * shared + [samples[j] for j in own]
            beyond = _join([path[i - 2] for path in paths]) if i >= 2 else None
            q = _split(self.posterior[i - 1](_join([path[i - 1] for path in paths]), beyond), sizes)
            for j, s in enumerate(samples):
                q_j = q[shared + own.index(j)] if j in own else q[0]
                shape = (s, *q_j.mean.shape[1:])
                if ks[j] >= i:
                    z[j].append(q_j.mean.expand(shape))
                    continue
                z[j].append(q_j.mean + q_j.stddev * noise.normal(f"q{i}", shape, y.device))
                log_q[j][i] = q_j.log_prob(z[j][i])
            if shared:
                mean.append(q[0].mean)
        return z, log_q

    def _climb(self, y: Tensor, noise: Noise | None, samples: int) -> tuple[list[Tensor], list[Normal]]:
        """One path z_0..z_L through samples, or without noise through means, and each layer's posterior on it."""
        z, found = [y.unsqueeze(0)], []
        for i in range(1, self.depth + 1):
            found.append(q := self.posterior[i - 1](z[-1], z[-2] if i >= 2 else None))
            shape = (samples, *q.mean.shape[1:])
            z.append(q.mean if noise is None else q.mean + q.stddev * noise.normal(f"q{i}", shape, y.device))
            if i == 1:  # until here all samples are the same
                z[0] = y.expand(samples, *y.shape)
        return z, found

    def _downward(
        self,
        z: list[list[Tensor]],
        log_q: list[dict[int, Tensor]],
        noise: Noise,
        samples: Sequence[int],
        down: str,
    ) -> tuple[Distribution, list[list[Tensor]]]:
        """p(x | z) of all levels, joined along the sample axis, and for each log q - log p of the layers with a log q.

        Overwrites the z of the others by draws from the prior.
        """
        log_ratios: list[list[Tensor]] = [[] for _ in z]
        for i in range(self.depth, 0, -1):
            if i == self.depth:
                zero = torch.zeros_like(z[0][i][:1])
                p = [Normal(zero, torch.ones_like(zero), validate_args=False) for _ in z]
            else:
                beyond = _join([path[i + 2] for path in z]) if i + 2 <= self.depth else None
                p = _split(self.prior[i - 1](_join([path[i + 1] for path in z]), beyond), samples)
            for j, inferred in enumerate(log_q):
                if i in inferred:
                    log_ratios[j].insert(0, inferred[i] - p[j].log_prob(z[j][i]))
                elif down == "mode":
                    z[j][i] = p[j].mean.expand_as(z[j][i])
                else:
                    z[j][i] = p[j].mean + p[j].stddev * noise.normal(f"p{i}", tuple(z[j][i].shape), z[j][i].device)
        stage, head = self.decoder
        beyond = _join([path[2] for path in z]) if self.depth >= 2 else None
        params = _rows(head, _rows(stage, _join([path[1] for path in z]), beyond))
        return self.likelihood(params), log_ratios
