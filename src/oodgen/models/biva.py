r"""The bidirectional-inference variational autoencoder (BIVA).

Layer i < L is a pair of latent variables, $z_i = (z_i^b, z_i^t)$: $z_i^b$ is inferred on the way up, $z_i^t$ on the way
down; the top layer $z_L$, inferred where the two ways meet, is one variable. A deterministic path runs along each way,

$$h_1 = f_1(x), \quad h_i = f_i(h_{i-1}, z_{i-1}^b), \qquad\qquad
d_{L-1} = g_{L-1}(z_L), \quad d_i = g_i(d_{i+1}, z_{i+1}),$$

so that each variable reaches all that come after it, and not the next alone (the paper's skip connections):

$$p(x, z) = p(x | d_0)\, p(z_L) \prod_{i<L} p(z_i^b | d_i)\, p(z_i^t | d_i), \qquad d_i = d_i(z_{>i}),$$

$$q(z | x) = q(z_L | h_L) \prod_{i<L} q(z_i^b | h_i)\, q(z_i^t | h_i, d_i), \qquad h_i = h_i(x, z_{<i}^b) .$$

The bound of level k takes both halves of each layer $i \le k$ from p:

$$\mathcal L^{>k} = \mathbb E_{q(z_{>k} | x)\, p(z_{\le k} | z_{>k})} \Big[ \log p(x | z)
  + \sum_{i>k} \log p(z_i | z_{>i}) - \log q(z_i^b | h_i) - \log q(z_i^t | h_i, d_i) \Big] .$$

There $z_{\le k}^b$ on the way up is its posterior mean, as in the HVAE (or a sample); it only leads to $z_{>k}$ and is
then forgotten.

Source: Maaløe et al. 2019 (BIVA), section 2; Havtorn et al. 2021, appendix B, for the blocks.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from oodgen.models.gaussian import Gaussian, Scale, draw, join, normal, rows, split, standard
from oodgen.models.layered import Layered, Said
from oodgen.models.likelihoods import Likelihood
from oodgen.models.nets import Stage
from oodgen.models.upward import Path, upward
from oodgen.noise import Noise, Still

__all__ = ["BIVA"]


class BIVA(Layered):
    r"""The hierarchical VAE with bidirectional inference.

    Arguments:
        shape: Image shape (C, H, W).
        layers: Layers 1 to L, lowest first; see `oodgen.models.layered.Layer` for their fields. `latent` is the size of
            either half of a layer.
        likelihood: Observation model $p(x | z)$.
        stride_first: Reduce in the first residual block of a stage instead of the last; see `Stage`.
        scale: What the softplus output of a Gaussian is, "variance" or "deviation".

    Attributes:
        latents: Shapes of the image and of the layers' variables, the two halves of a pair joined along the channels.

    Source: Maaløe et al. 2019, section 2.
    """

    def __init__(
        self,
        shape: Sequence[int],
        layers: Sequence[Mapping[str, int | bool]],
        likelihood: Likelihood,
        stride_first: bool = False,
        scale: Scale = "variance",
    ) -> None:
        super().__init__(shape, layers, likelihood, stride_first, scale)
        self.halves = self.latents
        self.latents = [self.shape, *((2 * c, *size) for c, *size in self.halves[1:-1]), self.halves[-1]]
        maps, pairs = self._maps(), range(1, self.depth)
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
            Gaussian(self._meeting(i, maps[i], down[i]), self._head(i, i, self.halves[i]), scale) for i in pairs
        )
        self.pixels = self._pixels()

    def _meeting(self, i: int, h: tuple[int, ...], d: tuple[int, ...]) -> Stage:
        """One residual block on the sum of the two ways' maps, both of the size of layer i."""
        spec, size = self.specs[i - 1], self.sizes[i]
        return Stage(h, d, spec.channels, spec.kernel, 1, 1, self.stride_first, size, size, False)

    def posteriors(self, y: Tensor, noise: Noise | None = None, samples: int = 1) -> list[Normal]:
        """See `OpenHierarchy`: z^b from the lowest layer up, z^t from the top layer down, joined along the channels."""
        noise = noise or Still()
        (path,) = paths = self._ascend(y, noise, (0,), (samples,), "mean")
        self._come_down(y, paths, noise, (samples,), "sample")
        return [path.q[i] for i in range(1, self.depth + 1)]

    def _say(self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], up: str, down: str) -> Said:
        return self._descend(y, self._ascend(y, noise, ks, samples, up), noise, samples, down)

    def _code(self, i: int, q: Normal, noise: Noise, shape: tuple[int, int]) -> Tensor:
        if i == self.depth:
            return draw(q, noise, f"qb{i}", (*shape, *self.latents[i]))
        size = (*shape, *self.halves[i])
        halves = zip(("qb", "qt"), q.loc.chunk(2, 2), q.scale.chunk(2, 2), strict=True)
        return torch.cat([draw(Normal(m, s, validate_args=False), noise, f"{at}{i}", size) for at, m, s in halves], 2)

    def _ascend(self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], up: str) -> list[Path]:
        """The way up of each level k, with q(z_i^b | h_i) of the layers i > k."""

        def infer(i: int, paths: Sequence[Path]) -> Normal:
            below = [path.h[i - 1] if i >= 2 else path.z[0] for path in paths]
            h = rows(self.encoder[i - 1], join(below), join([path.z[i - 1] for path in paths]) if i >= 2 else None)
            for path, own in zip(paths, h.split([len(path.z[0]) for path in paths]), strict=True):
                path.h[i] = own
            return normal(rows(self.bottom_up[i - 1], h), self.scale)

        return upward(y, noise, ks, samples, up, self.depth, "qb", infer)

    def _descend(self, y: Tensor, paths: Sequence[Path], noise: Noise, samples: Sequence[int], down: str) -> Said:
        h = rows(self.decoder[0], *self._come_down(y, paths, noise, samples, down))
        return Said(self.likelihood(rows(self.pixels, h)), [path.log_ratios for path in paths])

    def _come_down(
        self, y: Tensor, paths: Sequence[Path], noise: Noise, samples: Sequence[int], down: str
    ) -> tuple[Tensor, Tensor | None]:
        """z_1 and d_1 of all paths, joined: z_i^t ~ q where a path has come up, and z_i ~ p where it has no q."""
        z: list[Tensor] = []
        d: Tensor | None = None
        for i in range(self.depth, 0, -1):
            if i == self.depth:
                p = [standard(self.latents[i], y.device)] * len(paths)
            else:
                d = rows(self.decoder[i], join(z), d)
                p = split(normal(rows(self.prior[i - 1], d), self.scale), samples)
                parts = zip(paths, d.split(list(samples)), strict=True)
                self._complete(i, [(path, part) for path, part in parts if i in path.q and i in path.h], noise)
            for s, path, p_i in zip(samples, paths, p, strict=True):
                if i in path.q:
                    path.p[i] = p_i
                else:
                    path.z[i] = draw(p_i, noise, f"p{i}", (s, len(y), *self.latents[i]), down)
            z = [path.z[i] for path in paths]
        return join(z), d

    def _complete(self, i: int, ways: Sequence[tuple[Path, Tensor]], noise: Noise) -> None:
        """Join to z_i^b of each path, given its d_i, a draw of z_i^t, and to q(z_i^b | .) its q."""
        if not ways:
            return
        h, d = join([path.h[i] for path, _ in ways]), join([d for _, d in ways])
        for (path, _), q in zip(ways, split(self.top_down[i - 1](h, d), [len(d) for _, d in ways]), strict=True):
            z, q_b = draw(q, noise, f"qt{i}", tuple(q.mean.shape)), path.q[i]
            # one q(z_1^b | .) stands for all samples
            mean, scale = (torch.cat([b.expand_as(t), t], 2) for b, t in ((q_b.loc, q.loc), (q_b.scale, q.scale)))
            path.z[i], path.q[i] = torch.cat([path.z[i], z], 2), Normal(mean, scale, validate_args=False)
