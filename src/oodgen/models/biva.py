r"""The bidirectional-inference variational autoencoder (BIVA).

Layer i < L is a pair of latent variables, $z_i = (z_i^b, z_i^t)$: $z_i^b$ is inferred bottom-up, $z_i^t$ top-down; the
top layer $z_L$ is one variable. Each direction has a deterministic path,

$$h_1 = f_1(x), \quad h_i = f_i(h_{i-1}, z_{i-1}^b), \qquad\qquad
d_{L-1} = g_{L-1}(z_L), \quad d_i = g_i(d_{i+1}, z_{i+1}),$$

so that each variable influences all later ones and not only the next (the paper's skip connections):

$$p(x, z) = p(x | d_0)\, p(z_L) \prod_{i<L} p(z_i^b | d_i)\, p(z_i^t | d_i), \qquad d_i = d_i(z_{>i}),$$

$$q(z | x) = q(z_L | h_L) \prod_{i<L} q(z_i^b | h_i)\, q(z_i^t | h_i, d_i), \qquad h_i = h_i(x, z_{<i}^b) .$$

The bound of level k takes both halves of each layer $i \le k$ from p:

$$\mathcal L^{>k} = \mathbb E_{q(z_{>k} | x)\, p(z_{\le k} | z_{>k})} \Big[ \log p(x | z)
  + \sum_{i>k} \log p(z_i | z_{>i}) - \log q(z_i^b | h_i) - \log q(z_i^t | h_i, d_i) \Big] .$$

In the bottom-up pass to $z_{>k}$ the variables $z_{\le k}^b$ are posterior means, as in the HVAE (or samples); they
enter no other term.

Source: Maaløe et al. 2019 (BIVA), section 2; Havtorn et al. 2021, appendix B, for the blocks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from oodgen.models.bottom_up import LevelState, bottom_up_pass
from oodgen.models.gaussian import (
    ConditionalGaussian,
    Scale,
    batched,
    cat_samples,
    draw,
    split_samples,
    standard_normal,
    to_gaussian,
)
from oodgen.models.layered import HierarchicalVAE, Layers, LevelTerms
from oodgen.models.likelihoods import Likelihood
from oodgen.models.nets import Stage
from oodgen.noise import MedianNoise, Noise
from oodgen.options import Count

__all__ = ["BIVA"]


class BIVA(HierarchicalVAE):
    r"""The hierarchical VAE with bidirectional inference.

    Arguments:
        shape: Image shape (C, H, W).
        layers: Layers 1 to L, lowest first; see `oodgen.models.layered.LayerSpec` for their fields. `latent` is the
            size of either half of a layer.
        likelihood: Observation model $p(x | z)$.
        stride_first: Reduce in the first residual block of a stage instead of the last; see `Stage`.
        scale: What the softplus output of a Gaussian is, "variance" or "deviation".

    Attributes:
        latents: Shapes of the image and of the layers' variables, the two halves of a pair joined along the channels.

    Source: Maaløe et al. 2019, section 2.
    """

    def __init__(
        self,
        shape: Sequence[Count],
        layers: Layers,
        likelihood: Likelihood,
        stride_first: bool = False,
        scale: Scale = "variance",
    ) -> None:
        super().__init__(shape, layers, likelihood, stride_first, scale)
        self.halves = self.latents
        self.latents = [self.shape, *((2 * c, *size) for c, *size in self.halves[1:-1]), self.halves[-1]]
        maps, pairs = self._map_shapes(), range(1, self.depth)
        # encoder[i - 1] is f_i, bottom_up[i - 1] q(z_i^b | h_i), and the last of it q(z_L | h_L)
        self.encoder = nn.ModuleList(
            self._stage(i, False, maps[i - 1], self.halves[i - 1] if i >= 2 else None) for i in (*pairs, self.depth)
        )
        self.bottom_up = nn.ModuleList(self._head(i, i, self.halves[i]) for i in (*pairs, self.depth))
        # decoder[i] is g_i; its map has the channels of the layer above and the size of layer i
        down = [(self.specs[i].channels, *self.sizes[i]) for i in range(self.depth)]
        self.decoder = nn.ModuleList(
            self._stage(i + 1, True, self.latents[i + 1], down[i + 1] if i + 1 < self.depth else None)
            for i in range(self.depth)
        )
        self.prior = nn.ModuleList(self._head(i + 1, i, self.latents[i]) for i in pairs)
        # top_down[i - 1] is q(z_i^t | h_i, d_i)
        self.top_down = nn.ModuleList(
            ConditionalGaussian(self._merge_stage(i, maps[i], down[i]), self._head(i, i, self.halves[i]), scale)
            for i in pairs
        )
        self.pixels = self._pixel_head()

    def _merge_stage(self, i: int, h: tuple[int, ...], d: tuple[int, ...]) -> Stage:
        """One residual block on the sum of the bottom-up and top-down maps, both of the size of layer i."""
        spec, size = self.specs[i - 1], self.sizes[i]
        return Stage(h, d, spec.channels, spec.kernel, 1, 1, self.stride_first, size, size, False)

    def posteriors(self, y: Tensor, noise: Noise | None = None, samples: int = 1) -> list[Normal]:
        """See `HierarchyWithPosteriors`: z^b bottom-up, then z^t top-down, concatenated along the channels."""
        noise = noise or MedianNoise()
        (state,) = states = self._bottom_up(y, noise, (0,), (samples,), "mean")
        self._top_down_states(y, states, noise, (samples,), "sample")
        return [state.q[i] for i in range(1, self.depth + 1)]

    def _level_terms(
        self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], up: str, down: str
    ) -> LevelTerms:
        return self._top_down(y, self._bottom_up(y, noise, ks, samples, up), noise, samples, down)

    def _draw_posterior(self, i: int, q: Normal, noise: Noise, shape: tuple[int, int]) -> Tensor:
        if i == self.depth:
            return draw(q, noise, f"qb{i}", (*shape, *self.latents[i]))
        size = (*shape, *self.halves[i])
        halves = zip(("qb", "qt"), q.loc.chunk(2, 2), q.scale.chunk(2, 2), strict=True)
        return torch.cat([draw(Normal(m, s, validate_args=False), noise, f"{at}{i}", size) for at, m, s in halves], 2)

    def _bottom_up(
        self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], up: str
    ) -> list[LevelState]:
        """The bottom-up pass of each level k, with q(z_i^b | h_i) of the layers i > k."""

        def infer(i: int, states: Sequence[LevelState]) -> Normal:
            below = [state.h[i - 1] if i >= 2 else state.z[0] for state in states]
            h = batched(
                self.encoder[i - 1],
                cat_samples(below),
                cat_samples([state.z[i - 1] for state in states]) if i >= 2 else None,
            )
            for state, features in zip(states, h.split([len(state.z[0]) for state in states]), strict=True):
                state.h[i] = features
            return to_gaussian(batched(self.bottom_up[i - 1], h), self.scale)

        return bottom_up_pass(y, noise, ks, samples, up, self.depth, "qb", infer)

    def _top_down(
        self, y: Tensor, states: Sequence[LevelState], noise: Noise, samples: Sequence[int], down: str
    ) -> LevelTerms:
        h = batched(self.decoder[0], *self._top_down_states(y, states, noise, samples, down))
        return LevelTerms(self.likelihood(batched(self.pixels, h)), [state.log_ratios for state in states])

    def _top_down_states(
        self, y: Tensor, states: Sequence[LevelState], noise: Noise, samples: Sequence[int], down: str
    ) -> tuple[Tensor, Tensor | None]:
        """z_1 and d_1 of all states, concatenated; z_i^t ~ q where q(z_i^b | .) is set, and z_i ~ p where it is not."""
        z: list[Tensor] = []
        d: Tensor | None = None
        for i in range(self.depth, 0, -1):
            if i == self.depth:
                p = [standard_normal(self.latents[i], y.device)] * len(states)
            else:
                d = batched(self.decoder[i], cat_samples(z), d)
                p = split_samples(to_gaussian(batched(self.prior[i - 1], d), self.scale), samples)
                parts = zip(states, d.split(list(samples)), strict=True)
                self._add_top_down_half(
                    i, [(state, part) for state, part in parts if i in state.q and i in state.h], noise
                )
            for s, state, p_i in zip(samples, states, p, strict=True):
                if i in state.q:
                    state.p[i] = p_i
                else:
                    state.z[i] = draw(p_i, noise, f"p{i}", (s, len(y), *self.latents[i]), down)
            z = [state.z[i] for state in states]
        return cat_samples(z), d

    def _add_top_down_half(self, i: int, given: Sequence[tuple[LevelState, Tensor]], noise: Noise) -> None:
        """Given d_i of each state, draw z_i^t ~ q and append it to z_i^b (channels), and its q to q(z_i^b | .)."""
        if not given:
            return
        h, d = cat_samples([state.h[i] for state, _ in given]), cat_samples([d for _, d in given])
        for (state, _), q in zip(
            given, split_samples(self.top_down[i - 1](h, d), [len(d) for _, d in given]), strict=True
        ):
            z, q_b = draw(q, noise, f"qt{i}", tuple(q.mean.shape)), state.q[i]
            # q(z_1^b | .) has one sample, which broadcasts
            mean, scale = (torch.cat([b.expand_as(t), t], 2) for b, t in ((q_b.loc, q.loc), (q_b.scale, q.scale)))
            state.z[i], state.q[i] = torch.cat([state.z[i], z], 2), Normal(mean, scale, validate_args=False)
