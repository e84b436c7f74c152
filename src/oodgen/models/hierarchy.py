r"""The hierarchical variational autoencoder with bottom-up inference (HVAE).

With $z_0 = x$ it infers each layer from the one below:

$$p(x, z) = p(x | z_1) \prod_{i<L} p(z_i | z_{i+1})\, p(z_L), \qquad
q(z | x) = q(z_1 | x) \prod_{i \ge 2} q(z_i | z_{i-1}),$$

with diagonal Gaussians and, as an option, skip connections $z_i \to z_{i+2}$ in both networks. The bound of level k
draws the layers above k from the posterior and the others from the prior:

$$\mathcal L^{>k} = \mathbb E_{p(z_{\le k} | z_{>k})\, q(z_{>k} | x)}
\Big[ \log p(x | z_1) + \sum_{i>k} \log p(z_i | z_{i+1}) - \log q(z_i | z_{i-1}) \Big], \qquad
\mathcal L^{>0} = \mathcal L .$$

Source: Havtorn et al. 2021, eqs. 3-6 (papers/hierarchical_llr).
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributions import Normal

from oodgen.models.bottom_up import LevelState, bottom_up_pass
from oodgen.models.gaussian import ConditionalGaussian, Scale, cat_samples
from oodgen.models.layered import ChainVAE, Layers, LevelTerms
from oodgen.models.likelihoods import Likelihood
from oodgen.noise import MedianNoise, Noise
from oodgen.options import Count

__all__ = ["BottomUpVAE"]


class BottomUpVAE(ChainVAE):
    r"""The hierarchical VAE with bottom-up inference (HVAE).

    Arguments:
        shape: Image shape (C, H, W).
        layers: Layers 1 to L, lowest first; see `oodgen.models.layered.LayerSpec` for their fields.
        likelihood: Observation model $p(x | z)$.
        skips: Connections $z_i \to z_{i+2}$ in both networks. (In the authors' code most of them have no effect.)
        stride_first: Reduce in the first residual block of a stage instead of the last; see `Stage`.
        scale: What the softplus output of a Gaussian is, "variance" or "deviation".

    Source: Havtorn et al. 2021, section 3 and appendix B.
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
        # posterior[i - 1] is q(z_i | z_{i-1})
        self.posterior = nn.ModuleList(
            ConditionalGaussian(
                self._stage(i, False, self.latents[i - 1], self.latents[i - 2] if skips and i >= 2 else None),
                self._head(i, i, self.latents[i]),
                scale,
            )
            for i in range(1, self.depth + 1)
        )
        self.prior, self.decoder = self._generative_networks(skips)

    def posteriors(self, y: Tensor, noise: Noise | None = None, samples: int = 1) -> list[Normal]:
        """See `HierarchyWithPosteriors`; layers are inferred from the lowest to the top."""
        (state,) = bottom_up_pass(y, noise or MedianNoise(), (0,), (samples,), "mean", self.depth, "q", self._infer)
        return [state.q[i] for i in range(1, self.depth + 1)]

    def _infer(self, i: int, states: Sequence[LevelState]) -> Normal:
        """q(z_i | z_{i-1}) of all states, concatenated along the sample axis."""
        skip = cat_samples([state.z[i - 2] for state in states]) if i >= 2 else None
        return self.posterior[i - 1](cat_samples([state.z[i - 1] for state in states]), skip)

    def _level_terms(
        self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], up: str, down: str
    ) -> LevelTerms:
        states = bottom_up_pass(y, noise, ks, samples, up, self.depth, "q", self._infer)
        return self._top_down(y, states, noise, samples, down)
