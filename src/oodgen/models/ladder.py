r"""The ladder variational autoencoder: top-down inference (LVAE).

A deterministic bottom-up pass computes a Gaussian $\hat q_i(z_i; x)$ for each layer, the evidence of the image.
Inference then goes top-down through the generative model and multiplies this evidence with the prior,

$$p(x, z) = p(x | z_1) \prod_{i<L} p(z_i | z_{i+1})\, p(z_L), \qquad
q(z | x) = q(z_L | x) \prod_{i<L} q(z_i | x, z_{>i}),$$

$$q(z_L | x) = \hat q_L(z_L; x), \qquad q(z_i | x, z_{>i}) \propto \hat q_i(z_i; x)\, p(z_i | z_{i+1}) :$$

precisions add, and means are weighted by precision. So $q(z_{>k} | x)$ does not depend on $z_{\le k}$, and

$$\mathcal L^{>k} = \mathbb E_{q(z_{>k} | x)\, p(z_{\le k} | z_{>k})} \log p(x | z_1)
  - \sum_{i>k} \mathbb E_{q(z_{>i} | x)} D_{KL}\big[q(z_i | x, z_{>i}) \,\|\, p(z_i | z_{i+1})\big],$$

whose divergences are in closed form.

Source: Sønderby et al. 2016, section 2 (ladder variational autoencoders); Li et al. 2022, whose formulas are those of
top-down inference (papers/adaptive_llr).
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributions import Normal

from oodgen.models.bottom_up import LevelState
from oodgen.models.gaussian import Scale, batched, draw, gaussian_product, to_gaussian
from oodgen.models.layered import ChainVAE, Layers, LevelTerms
from oodgen.models.likelihoods import Likelihood
from oodgen.noise import MedianNoise, Noise
from oodgen.options import Count

__all__ = ["LadderVAE"]


class LadderVAE(ChainVAE):
    r"""The hierarchical VAE with top-down inference (LVAE); its generative model is that of the HVAE.

    Arguments:
        shape: Image shape (C, H, W).
        layers: Layers 1 to L, lowest first; see `oodgen.models.layered.LayerSpec` for their fields.
        likelihood: Observation model $p(x | z)$.
        skips: Connections $z_{i+2} \to z_i$ in the generative network; the deterministic bottom-up network has none.
        stride_first: Reduce in the first residual block of a stage instead of the last; see `Stage`.
        scale: What the softplus output of a Gaussian is, "variance" or "deviation".

    Source: Sønderby et al. 2016; blocks and heads are those of Havtorn et al. 2021, appendix B.
    """

    def __init__(
        self,
        shape: Sequence[Count],
        layers: Layers,
        likelihood: Likelihood,
        skips: bool = True,
        stride_first: bool = False,
        scale: Scale = "variance",
    ) -> None:
        super().__init__(shape, layers, likelihood, stride_first, scale)
        maps, above = self._map_shapes(), range(1, self.depth + 1)
        self.encoder = nn.ModuleList(self._stage(i, False, maps[i - 1]) for i in above)
        # evidence[i - 1] gives the parameters of \hat q_i
        self.evidence = nn.ModuleList(self._head(i, i, self.latents[i]) for i in above)
        self.prior, self.decoder = self._generative_networks(skips)

    def posteriors(self, y: Tensor, noise: Noise | None = None, samples: int = 1) -> list[Normal]:
        """See `HierarchyWithPosteriors`; layers are inferred from the top to the lowest."""
        (state,) = self._infer(y, noise or MedianNoise(), (0,), (samples,), "sample")
        return [state.q[i] for i in range(1, self.depth + 1)]

    def _level_terms(
        self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], up: str, down: str
    ) -> LevelTerms:
        return self._collect_terms(y, self._infer(y, noise, ks, samples, down), samples)

    def _collect_terms(self, y: Tensor, states: Sequence[LevelState], samples: Sequence[int]) -> LevelTerms:
        # no posterior depends on a layer below: given the layers above, each KL has a closed form
        closed_kls = [
            state.kls(s, len(y)) if state.q else y.new_zeros(0, s, len(y))
            for state, s in zip(states, samples, strict=True)
        ]
        return super()._collect_terms(y, states, samples)._replace(closed_kls=closed_kls)

    def _infer(self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], down: str) -> list[LevelState]:
        """The top-down pass of each level k, in which z_{>k} ~ q and z_{<=k} ~ p."""
        evidence = self._evidence(y)
        # all levels use the same noise: they share one posterior pass, which level k leaves below z_{k+1}
        shared, left = LevelState({}), dict[int, LevelState]()
        for i in range(self.depth, 0, -1):
            left |= {j: shared.truncated(samples[j]) for j, k in enumerate(ks) if k == i}
            stays = len(left) < len(ks)
            p = self._priors(i, [state.z for state in (*[shared] * stays, *left.values())], y.device)
            for (j, state), p_i in zip(left.items(), p[stays:], strict=True):
                state.z[i] = draw(p_i, noise, f"p{i}", (samples[j], len(y), *self.latents[i]), down)
            if stays:
                shared.p[i] = p[0]
                shared.q[i] = gaussian_product(evidence[i], p[0]) if i < self.depth else evidence[i]
                shared.z[i] = draw(shared.q[i], noise, f"q{i}", (max(samples), len(y), *self.latents[i]))
        return [left[j] if j in left else shared.truncated(s) for j, s in enumerate(samples)]

    def _evidence(self, y: Tensor) -> dict[int, Normal]:
        r"""$\hat q_i(z_i; x)$ of each layer i, over (1, B, *latent)."""
        evidence, h = {}, y.unsqueeze(0)
        for i, (stage, head) in enumerate(zip(self.encoder, self.evidence, strict=True), 1):
            h = batched(stage, h)
            evidence[i] = to_gaussian(batched(head, h), self.scale)
        return evidence
