r"""The hierarchical variational autoencoder with bottom-up inference (HVAE).

With $z_0 = x$ it infers each layer from the one below:

$$p(x, z) = p(x | z_1) \prod_{i<L} p(z_i | z_{i+1})\, p(z_L), \qquad
q(z | x) = q(z_1 | x) \prod_{i \ge 2} q(z_i | z_{i-1}),$$

with diagonal Gaussians and, as an option, skip connections $z_i \to z_{i+2}$ in both networks. The bound of level k
trusts the posterior above k only:

$$\mathcal L^{>k} = \mathbb E_{p(z_{\le k} | z_{>k})\, q(z_{>k} | x)}
\Big[ \log p(x | z_1) + \sum_{i>k} \log p(z_i | z_{i+1}) - \log q(z_i | z_{i-1}) \Big], \qquad
\mathcal L^{>0} = \mathcal L .$$

Source: Havtorn et al. 2021, eqs. 3-6 (papers/hierarchical_llr).
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.distributions import Normal

from oodgen.models.gaussian import Gaussian, Scale, join
from oodgen.models.layered import Chain, Said
from oodgen.models.likelihoods import Likelihood
from oodgen.models.upward import Path, upward
from oodgen.noise import Noise, Still

__all__ = ["BottomUpVAE"]


class BottomUpVAE(Chain):
    r"""The hierarchical VAE with bottom-up inference (HVAE).

    Arguments:
        shape: Image shape (C, H, W).
        layers: Layers 1 to L, lowest first; see `oodgen.models.layered.Layer` for their fields.
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
        scale: Scale = "variance",
    ) -> None:
        super().__init__(shape, layers, likelihood, stride_first, scale)
        # posterior[i - 1] is q(z_i | z_{i-1})
        self.posterior = nn.ModuleList(
            Gaussian(
                self._stage(i, False, self.latents[i - 1], self.latents[i - 2] if skips and i >= 2 else None),
                self._head(i, i, self.latents[i]),
                scale,
            )
            for i in range(1, self.depth + 1)
        )
        self.prior, self.decoder = self._generative(skips)

    def posteriors(self, y: Tensor, noise: Noise | None = None, samples: int = 1) -> list[Normal]:
        """See `OpenHierarchy`: from the lowest layer up."""
        (path,) = upward(y, noise or Still(), (0,), (samples,), "mean", self.depth, "q", self._infer)
        return [path.q[i] for i in range(1, self.depth + 1)]

    def _infer(self, i: int, paths: Sequence[Path]) -> Normal:
        """q(z_i | z_{i-1}) of all paths, joined."""
        beyond = join([path.z[i - 2] for path in paths]) if i >= 2 else None
        return self.posterior[i - 1](join([path.z[i - 1] for path in paths]), beyond)

    def _say(self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], up: str, down: str) -> Said:
        paths = upward(y, noise, ks, samples, up, self.depth, "q", self._infer)
        return self._descend(y, paths, noise, samples, down)
