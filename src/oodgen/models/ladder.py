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

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from oodgen.models.gaussian import Scale, draw, merge, normal, rows
from oodgen.models.layered import Chain, Said
from oodgen.models.likelihoods import Likelihood
from oodgen.noise import Noise

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

    def _say(self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], up: str, down: str) -> Said:
        evidence = self._upward(y)
        # with the same noise all levels come down the posterior together; level k leaves this trunk below z_{k+1}
        trunk: dict[int, Tensor] = {}
        left: dict[int, dict[int, Tensor]] = {}
        ratios: dict[int, Tensor] = {}
        kls: dict[int, Tensor] = {}
        shape = (max(samples), len(y))
        for i in range(self.depth, 0, -1):
            left |= {j: _first(trunk, samples[j]) for j, k in enumerate(ks) if k == i}
            stays = len(left) < len(ks)
            p = self._above(i, [trunk] * stays + list(left.values()), y.device)
            for (j, path), p_i in zip(left.items(), p[stays:], strict=True):
                path[i] = draw(p_i, noise, f"p{i}", (samples[j], len(y), *self.latents[i]), down)
            if stays:
                q = merge(evidence[i], p[0]) if i < self.depth else evidence[i]
                trunk[i] = draw(q, noise, f"q{i}", (*shape, *self.latents[i]))
                ratios[i] = q.log_prob(trunk[i]) - p[0].log_prob(trunk[i])
                kls[i] = kl_divergence(q, p[0]).flatten(2).sum(2).expand(shape)
        inferred = [(range(k + 1, self.depth + 1), s) for k, s in zip(ks, samples, strict=True)]
        return Said(
            self._observed([left[j] if j in left else _first(trunk, s) for j, s in enumerate(samples)]),
            [[ratios[i][:s] for i in layers] for layers, s in inferred],
            [
                torch.stack([kls[i][:s] for i in layers]) if layers else y.new_zeros(0, s, len(y))
                for layers, s in inferred
            ],
        )

    def _upward(self, y: Tensor) -> dict[int, Normal]:
        r"""$\hat q_i(z_i; x)$ of each layer i, over (1, B, *latent)."""
        found, h = {}, y.unsqueeze(0)
        for i, (stage, head) in enumerate(zip(self.encoder, self.evidence, strict=True), 1):
            h = rows(stage, h)
            found[i] = normal(rows(head, h), self.scale)
        return found


def _first(path: dict[int, Tensor], samples: int) -> dict[int, Tensor]:
    return {i: z[:samples] for i, z in path.items()}
