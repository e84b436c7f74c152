r"""What all hierarchies share: their layers, and the bounds of all levels in one pass.

A hierarchy has latent variables $z_1, \dots, z_L$, $z_1$ next to the data $x$. Each model says how its prior
$p(z) = \prod_i p(z_i | z_{>i})$ and its posterior $q(z | x)$ factorise; the bound of level k then trusts the posterior
above k only:

$$\mathcal L^{>k} = \mathbb E_{q(z_{>k} | x)\, p(z_{\le k} | z_{>k})}
\Big[ \log p(x | z) + \log p(z_{>k}) - \log q(z_{>k} | x) \Big], \qquad \mathcal L^{>0} = \mathcal L .$$

Each is a lower bound on $\log p(x)$, since the last three terms are an importance weight whose expectation is p(x).

Source: Havtorn et al. 2021, eqs. 3-6 (papers/hierarchical_llr).
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from oodgen.errors import UserError
from oodgen.models.density import Bound, Latent
from oodgen.models.gaussian import Gaussian, Scale, draw, join, rows, split, standard
from oodgen.models.likelihoods import Likelihood
from oodgen.models.nets import Lower, Stage, data_dependent_init
from oodgen.models.upward import Path
from oodgen.noise import Noise

__all__ = ["Chain", "Layer", "Layered", "Said"]

INITIAL = 64  # rows that the initialisation sees at least: so many images, or samples of fewer


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


class Said(NamedTuple):
    r"""What one pass of the networks says about several levels.

    Arguments:
        p_x: $p(x | z)$ of all levels, joined along the sample axis.
        log_ratios: For each level, $\log q - \log p$ of each inferred layer, lowest first.
        closed: For each level, the KL of each inferred layer where it has a closed form; see `Bound`.
    """

    p_x: Distribution
    log_ratios: list[list[Tensor]]
    closed: list[Tensor] | None = None


class Layered(Latent):
    r"""A density with L layers of Gaussian latent variables.

    Arguments:
        shape: Image shape (C, H, W).
        layers: Layers 1 to L, lowest first; see `Layer` for their fields.
        likelihood: Observation model $p(x | z)$.
        stride_first: Reduce in the first residual block of a stage instead of the last; see `Stage`.
        scale: What the softplus output of a Gaussian is, "variance" or "deviation".

    Attributes:
        depth: L.
        sizes: Height and width of the image and of each layer's feature map.
        latents: Shapes of the image and of each layer's latent variable.

    Raises:
        UserError: there are no layers, one cannot be, `scale` is neither, or the shape is not that of an image.
    """

    def __init__(
        self,
        shape: Sequence[int],
        layers: Sequence[Mapping[str, int | bool]],
        likelihood: Likelihood,
        stride_first: bool,
        scale: Scale,
    ) -> None:
        super().__init__(shape, likelihood)
        self.specs = [Layer(**layer) for layer in layers]  # type: ignore[arg-type]
        if not self.specs:
            raise UserError("model.layers is empty; a hierarchy needs at least one layer")
        if scale not in ("variance", "deviation"):
            raise UserError(f"model.scale={scale!r} is not one of: variance, deviation")
        if len(shape) != 3 or min(shape) < 1:
            raise UserError(f"model.shape={list(shape)} is not that of an image, [channels,height,width]")
        self.depth, self.stride_first, self.scale = len(self.specs), stride_first, scale
        self.sizes = [(self.shape[1], self.shape[2])]
        for spec in self.specs:
            height, width = self.sizes[-1]
            self.sizes.append((-(-height // spec.stride), -(-width // spec.stride)))
        latents = [
            (spec.latent,) if spec.dense else (spec.latent, *size)
            for spec, size in zip(self.specs, self.sizes[1:], strict=True)
        ]
        self.latents: list[tuple[int, ...]] = [self.shape, *latents]

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

        What networks say of several levels is computed once, and each is called once with the rows of all levels. All
        levels use the same noise for the same variable.

        Arguments:
            y: Observed images, shape (B, C, H, W).
            noise: Where the random numbers come from.
            up: What stands for $z_{\le k}$ on the way up to $q(z_{k+1} | \cdot)$: their posterior "mean" (the paper's
                section 3.2) or a "sample". No matter where nothing is drawn on the way up.
            down: How $z_{\le k}$ is drawn on the way down: a "sample" of p (eq. 5) or its "mode" (the authors' script).

        Raises:
            ValueError: k is not in 0..L, or `ks` and `samples` differ in length.
        """
        p_x, log_ratios, closed = self._said(y, noise, ks, samples, up, down)
        log_px = p_x.log_prob(y).split(list(samples))
        kls = [None] * len(ks) if closed is None else closed
        return [Bound(v, tuple(ratios), kl) for v, ratios, kl in zip(log_px, log_ratios, kls, strict=True)]

    def initialise(self, y: Tensor, noise: Noise) -> None:
        # a unit whose few values happen to lie close together gets a huge weight, and layers multiply
        data_dependent_init(self, lambda: self(y, noise, -(-INITIAL // len(y))))

    def reconstruct(self, y: Tensor, noise: Noise, k: int) -> Tensor:
        return self._said(y, noise, (k,), (1,), "mean", "sample").p_x.mean[0]

    def generate(self, count: int, noise: Noise) -> Tensor:
        # with k = L everything comes from the prior, and the image is not looked at
        y = torch.zeros(count, *self.shape, device=next(self.parameters()).device)
        return self.reconstruct(y, noise, self.depth)

    @abstractmethod
    def posteriors(self, y: Tensor, noise: Noise | None = None, samples: int = 1) -> list[Normal]:
        """See `OpenHierarchy`."""

    def explain(self, y: Tensor, posteriors: Sequence[Normal | None], noise: Noise, samples: int = 1) -> Bound:
        """See `OpenHierarchy`."""
        if len(posteriors) != self.depth:
            raise ValueError(f"{len(posteriors)} posteriors do not fit a hierarchy of {self.depth} layers")
        path = Path({})
        for i, q in enumerate(posteriors, 1):
            if q is not None:
                path.q[i], path.z[i] = q, self._code(i, q, noise, (samples, len(y)))
        p_x, (log_ratios,), closed = self._descend(y, [path], noise, (samples,), "sample")
        return Bound(p_x.log_prob(y), tuple(log_ratios), None if closed is None else closed[0])

    def _code(self, i: int, q: Normal, noise: Noise, shape: tuple[int, int]) -> Tensor:
        """Draws of z_i from a posterior at the sites of `bounds`, of shape (S, B, *latent)."""
        return draw(q, noise, f"q{i}", (*shape, *self.latents[i]))

    def _said(self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], up: str, down: str) -> Said:
        if len(ks) != len(samples) or not all(0 <= k <= self.depth for k in ks):
            raise ValueError(f"levels {ks} with samples {samples} do not fit a hierarchy of {self.depth} layers")
        return self._say(y, noise, ks, samples, up, down)

    @abstractmethod
    def _say(self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], up: str, down: str) -> Said:
        """Draw z_{>k} from q and z_{<=k} from p, for each level k."""

    @abstractmethod
    def _descend(self, y: Tensor, paths: Sequence[Path], noise: Noise, samples: Sequence[int], down: str) -> Said:
        """What each path's inferred layers, those with a q, say of the image; draws from p replace the others."""

    def _stage(self, i: int, up: bool, source: tuple[int, ...], beyond: tuple[int, ...] | None = None) -> Stage:
        """The deterministic block of layer i that eats `source` and, beside it, `beyond`; `up`: of the generation."""
        spec = self.specs[i - 1]
        ends = (self.sizes[i], self.sizes[i - 1]) if up else (self.sizes[i - 1], self.sizes[i])
        blocks = (spec.channels, spec.kernel, spec.blocks, spec.stride, self.stride_first)
        return Stage(source, beyond, *blocks, *ends, up)

    def _head(self, i: int, at: int, latent: tuple[int, ...]) -> Lower:
        """From a map of layer i's channels and the size of layer `at` to the means and scales of a variable."""
        return Lower(self.specs[i - 1].channels, self.sizes[at], latent, 2)

    def _pixels(self) -> Lower:
        """From the lowest map to the parameters of the likelihood."""
        return Lower(
            self.specs[0].channels, self.sizes[0], (self.likelihood.channels(self.shape[0]), *self.sizes[0]), 1
        )

    def _maps(self) -> list[tuple[int, ...]]:
        """Shapes of the image and of each layer's feature map."""
        return [self.shape, *((s.channels, *size) for s, size in zip(self.specs, self.sizes[1:], strict=True))]


class Chain(Layered):
    r"""The generative model of the HVAE and the LVAE,

    $$p(x, z) = p(x | z_1) \prod_{i<L} p(z_i | z_{i+1})\, p(z_L), \qquad p(z_L) = \mathcal N(0, I),$$

    with, as an option, skip connections $z_{i+2} \to z_i$, where $z_0 = x$.

    Source: Havtorn et al. 2021, section 3 and appendix B.
    """

    prior: nn.ModuleList  # prior[i - 1] is p(z_i | z_{i+1}), i < L
    decoder: nn.ModuleList

    def _generative(self, skips: bool) -> tuple[nn.ModuleList, nn.ModuleList]:
        """The networks of p(z_i | z_{i+1}), i < L, and of p(x | z_1)."""

        def stage(i: int) -> Stage:
            beyond = self.latents[i + 1] if skips and i < self.depth else None
            return self._stage(i, True, self.latents[i], beyond)

        prior = nn.ModuleList(
            Gaussian(stage(i + 1), self._head(i + 1, i, self.latents[i]), self.scale) for i in range(1, self.depth)
        )
        return prior, nn.ModuleList([stage(1), self._pixels()])

    def _descend(self, y: Tensor, paths: Sequence[Path], noise: Noise, samples: Sequence[int], down: str) -> Said:
        z = [path.z for path in paths]
        for i in range(self.depth, 0, -1):
            for s, path, p in zip(samples, paths, self._above(i, z, y.device), strict=True):
                if i in path.q:
                    path.p[i] = p
                else:
                    path.z[i] = draw(p, noise, f"p{i}", (s, len(y), *self.latents[i]), down)
        return self._told(y, paths, samples)

    def _told(self, y: Tensor, paths: Sequence[Path], samples: Sequence[int]) -> Said:
        """What paths say that know all layers."""
        return Said(self._observed([path.z for path in paths]), [path.log_ratios for path in paths])

    def _above(self, i: int, paths: Sequence[Mapping[int, Tensor]], device: torch.device) -> list[Normal]:
        """p(z_i | z_{>i}) of each path, one for all that share z_{>i}."""
        if i == self.depth:
            return [standard(self.latents[i], device)] * len(paths)
        above = [(id(z[i + 1]), id(z.get(i + 2))) for z in paths]
        own = dict(zip(above, paths, strict=True))
        beyond = join([z[i + 2] for z in own.values()]) if i + 2 <= self.depth else None
        p = self.prior[i - 1](join([z[i + 1] for z in own.values()]), beyond)
        found = dict(zip(own, split(p, [len(z[i + 1]) for z in own.values()]), strict=True))
        return [found[key] for key in above]

    def _observed(self, paths: Sequence[Mapping[int, Tensor]]) -> Distribution:
        """p(x | z) of all paths, joined."""
        stage, head = self.decoder
        beyond = join([z[2] for z in paths]) if self.depth >= 2 else None
        return self.likelihood(rows(head, rows(stage, join([z[1] for z in paths]), beyond)))
