r"""The ladder variational autoencoder: top-down inference (LVAE).

A deterministic pass upward finds what the image says of each layer, a Gaussian $\hat q_i(z_i; x)$. Inference then comes
down the generative model and merges that evidence with the prior,

$$p(x, z) = p(x | z_1) \prod_{i<L} p(z_i | z_{i+1})\, p(z_L), \qquad
q(z | x) = q(z_L | x) \prod_{i<L} q(z_i | x, z_{>i}),$$

$$q(z_L | x) = \hat q_L(z_L; x), \qquad q(z_i | x, z_{>i}) \propto \hat q_i(z_i; x)\, p(z_i | z_{i+1}) :$$

precisions add up, and the mean is weighted by them. So $q(z_{>k} | x)$ needs no variable below, and

$$\mathcal L^{>k} = \mathbb E_{q(z_{>k} | x)\, p(z_{\le k} | z_{>k})} \log p(x | z_1)
  - \sum_{i>k} \mathbb E_{q(z_{>i} | x)} D_{KL}\big[q(z_i | x, z_{>i}) \,\|\, p(z_i | z_{i+1})\big],$$

whose divergences are in closed form.

Source: Sønderby et al. 2016, section 2 (ladder variational autoencoders); Li et al. 2022, whose formulas are those of
top-down inference (papers/adaptive_llr).
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.distributions import Normal

from oodgen.models.gaussian import Scale, draw, merge, normal, rows
from oodgen.models.layered import Chain, Said
from oodgen.models.likelihoods import Likelihood
from oodgen.models.upward import Path
from oodgen.noise import Noise, Still

__all__ = ["LadderVAE"]


class LadderVAE(Chain):
    r"""The hierarchical VAE with top-down inference (LVAE); its generative model is that of the HVAE.

    Arguments:
        shape: Image shape (C, H, W).
        layers: Layers 1 to L, lowest first; see `oodgen.models.layered.Layer` for their fields.
        likelihood: Observation model $p(x | z)$.
        skips: Connections $z_{i+2} \to z_i$ in the generative network; the way up is deterministic and needs none.
        stride_first: Reduce in the first residual block of a stage instead of the last; see `Stage`.
        scale: What the softplus output of a Gaussian is, "variance" or "deviation".

    Source: Sønderby et al. 2016; blocks and heads are those of Havtorn et al. 2021, appendix B.
    """

    def __init__(
        self,
        shape: Sequence[int],
        layers: Sequence[Mapping[str, int | bool]],
        likelihood: Likelihood,
        skips: bool = True,
        stride_first: bool = False,
        scale: Scale = "variance",
    ) -> None:
        super().__init__(shape, layers, likelihood, stride_first, scale)
        maps, above = self._maps(), range(1, self.depth + 1)
        self.encoder = nn.ModuleList(self._stage(i, False, maps[i - 1]) for i in above)
        # evidence[i - 1] gives the parameters of \hat q_i
        self.evidence = nn.ModuleList(self._head(i, i, self.latents[i]) for i in above)
        self.prior, self.decoder = self._generative(skips)

    def posteriors(self, y: Tensor, noise: Noise | None = None, samples: int = 1) -> list[Normal]:
        """See `OpenHierarchy`: from the top layer down."""
        (path,) = self._infer(y, noise or Still(), (0,), (samples,), "sample")
        return [path.q[i] for i in range(1, self.depth + 1)]

    def _say(self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], up: str, down: str) -> Said:
        return self._told(y, self._infer(y, noise, ks, samples, down), samples)

    def _told(self, y: Tensor, paths: Sequence[Path], samples: Sequence[int]) -> Said:
        # no posterior depends on a layer below, so that given the layers above each divergence is closed
        closed = [
            path.kls(s, len(y)) if path.q else y.new_zeros(0, s, len(y)) for path, s in zip(paths, samples, strict=True)
        ]
        return super()._told(y, paths, samples)._replace(closed=closed)

    def _infer(self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], down: str) -> list[Path]:
        """The way down of each level k, on which z_{>k} ~ q and z_{<=k} ~ p."""
        evidence = self._upward(y)
        # with the same noise all levels come down the posterior together; level k leaves this trunk below z_{k+1}
        trunk, left = Path({}), dict[int, Path]()
        for i in range(self.depth, 0, -1):
            left |= {j: trunk.first(samples[j]) for j, k in enumerate(ks) if k == i}
            stays = len(left) < len(ks)
            p = self._above(i, [path.z for path in (*[trunk] * stays, *left.values())], y.device)
            for (j, path), p_i in zip(left.items(), p[stays:], strict=True):
                path.z[i] = draw(p_i, noise, f"p{i}", (samples[j], len(y), *self.latents[i]), down)
            if stays:
                trunk.p[i] = p[0]
                trunk.q[i] = merge(evidence[i], p[0]) if i < self.depth else evidence[i]
                trunk.z[i] = draw(trunk.q[i], noise, f"q{i}", (max(samples), len(y), *self.latents[i]))
        return [left[j] if j in left else trunk.first(s) for j, s in enumerate(samples)]

    def _upward(self, y: Tensor) -> dict[int, Normal]:
        r"""$\hat q_i(z_i; x)$ of each layer i, over (1, B, *latent)."""
        found, h = {}, y.unsqueeze(0)
        for i, (stage, head) in enumerate(zip(self.encoder, self.evidence, strict=True), 1):
            h = rows(stage, h)
            found[i] = normal(rows(head, h), self.scale)
        return found
