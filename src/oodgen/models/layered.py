r"""The base classes of hierarchical VAEs: their layers, and the bounds of all levels in one pass.

A hierarchy has latent variables $z_1, \dots, z_L$, $z_1$ next to the data $x$. The models differ in how
the prior $p(z) = \prod_i p(z_i | z_{>i})$ and the posterior $q(z | x)$ factorise. The bound of level k draws the layers
above k from the posterior and the others from the prior:

$$\mathcal L^{>k} = \mathbb E_{q(z_{>k} | x)\, p(z_{\le k} | z_{>k})}
\Big[ \log p(x | z) + \log p(z_{>k}) - \log q(z_{>k} | x) \Big], \qquad \mathcal L^{>0} = \mathcal L .$$

Each is a lower bound on $\log p(x)$ by Jensen's inequality: the terms in brackets are the logarithm of an importance
weight whose expectation is p(x).

Source: Havtorn et al. 2021, eqs. 3-6 (papers/hierarchical_llr).
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from oodgen.errors import UserError
from oodgen.models.bottom_up import LevelState
from oodgen.models.density import Bound, LatentVariableModel
from oodgen.models.gaussian import (
    ConditionalGaussian,
    Scale,
    batched,
    cat_samples,
    draw,
    split_samples,
    standard_normal,
)
from oodgen.models.likelihoods import Likelihood
from oodgen.models.nets import FromFeatureMap, Stage, data_dependent_init
from oodgen.noise import MedianNoise, Noise
from oodgen.options import Count

__all__ = ["ChainVAE", "HierarchicalVAE", "LayerSpec", "Layers", "LevelTerms"]

INITIAL = 64  # images times samples in the batch of the data-dependent initialisation, at least


@dataclass(frozen=True)
class LayerSpec:
    """Sizes of a stochastic layer and of the deterministic blocks before it.

    Arguments:
        latent: Channels of a convolutional latent variable, or the dimension of a dense one.
        dense: Whether the latent variable is a vector.
        channels, kernel, blocks: Of the residual blocks.
        stride: Factor by which the inference network reduces the feature map.
    """

    latent: Count
    dense: bool = False
    channels: Count = 64
    kernel: Count = 3
    blocks: Count = 3
    stride: Count = 1

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise UserError(f"model.layers: kernel={self.kernel} must be odd, so that feature maps keep their size")


# The arguments of each LayerSpec, lowest layer first.
Layers = Sequence[Annotated[Mapping[str, int | bool], LayerSpec]]


class LevelTerms(NamedTuple):
    r"""The terms of the bounds L^{>k} of several levels k, from one pass of the networks.

    Arguments:
        p_x: $p(x | z)$ of all levels, concatenated along the sample axis.
        log_ratios: For each level, $\log q - \log p$ of each inferred layer, lowest first.
        closed_kls: For each level, the closed-form KL of each inferred layer, or None; see `Bound`.
    """

    p_x: Distribution
    log_ratios: list[list[Tensor]]
    closed_kls: list[Tensor] | None = None


class HierarchicalVAE(LatentVariableModel):
    r"""A density with L layers of Gaussian latent variables.

    Arguments:
        shape: Image shape (C, H, W).
        layers: Layers 1 to L, lowest first; see `LayerSpec` for their fields.
        likelihood: Observation model $p(x | z)$.
        stride_first: Reduce in the first residual block of a stage instead of the last; see `Stage`.
        scale: What the softplus output of a Gaussian is, "variance" or "deviation".

    Attributes:
        depth: L.
        sizes: Height and width of the image and of each layer's feature map.
        latents: Shapes of the image and of each layer's latent variable.

    Raises:
        UserError: there are no layers, a layer or `scale` is invalid, or the shape is not that of an image.
    """

    def __init__(
        self, shape: Sequence[int], layers: Layers, likelihood: Likelihood, stride_first: bool, scale: Scale
    ) -> None:
        super().__init__(shape, likelihood)
        self.specs = [LayerSpec(**layer) for layer in layers]  # type: ignore[arg-type]
        if not self.specs:
            raise UserError("model.layers is empty; give at least one layer")
        if scale not in ("variance", "deviation"):
            raise UserError(f"model.scale={scale!r} is not one of: variance, deviation")
        if len(shape) != 3:
            raise UserError(f"model.shape={list(shape)} is not an image shape [channels,height,width]")
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
        r"""$\mathcal L^{>k}$ of several levels k.

        Each network is called once, on the samples of all levels. All levels use the same noise for the same variable.

        Arguments:
            y: Observed images, shape (B, C, H, W).
            noise: Source of the random numbers.
            ks: The levels, 0 <= k <= L.
            samples: The number of samples of each level.
            up: What $q(z_{k+1} | \cdot)$ is conditioned on: the posterior "mean" of $z_{\le k}$ (the paper's section
                3.2) or a "sample". Without effect where inference draws nothing bottom-up.
            down: $z_{\le k}$ is a "sample" of $p(z_{\le k} | z_{>k})$ (eq. 5) or its "mode" (the authors' script).

        Raises:
            ValueError: k is not in 0..L, or `ks` and `samples` differ in length.
        """
        p_x, log_ratios, closed_kls = self._checked_level_terms(y, noise, ks, samples, up, down)
        log_px = p_x.log_prob(y).split(list(samples))
        kls = [None] * len(ks) if closed_kls is None else closed_kls
        return [Bound(v, tuple(ratios), kl) for v, ratios, kl in zip(log_px, log_ratios, kls, strict=True)]

    def initialise(self, y: Tensor, noise: Noise) -> None:
        # with few values per channel a small chance variance gives huge weights, which multiply over layers
        data_dependent_init(self, lambda: self(y, noise, -(-INITIAL // len(y))))

    def reconstruct(self, y: Tensor, noise: Noise, k: int) -> Tensor:
        return self._checked_level_terms(y, noise, (k,), (1,), "mean", "sample").p_x.mean[0]

    def generate(self, count: int, noise: Noise) -> Tensor:
        # with k = L all layers come from the prior, and the image has no effect
        y = torch.zeros(count, *self.shape, device=next(self.parameters()).device)
        return self.reconstruct(y, noise, self.depth)

    @abstractmethod
    def posteriors(self, y: Tensor, noise: Noise | None = None, samples: int = 1) -> list[Normal]:
        """See `HierarchyWithPosteriors`."""

    def bound_with_posteriors(
        self, y: Tensor, posteriors: Sequence[Normal | None], noise: Noise, samples: int = 1
    ) -> Bound:
        """See `HierarchyWithPosteriors`."""
        if len(posteriors) != self.depth:
            raise ValueError(f"{len(posteriors)} posteriors do not fit a hierarchy of {self.depth} layers")
        state = LevelState({})
        for i, q in enumerate(posteriors, 1):
            if q is not None:
                state.q[i], state.z[i] = q, self._draw_posterior(i, q, noise, (samples, len(y)))
        p_x, (log_ratios,), closed_kls = self._top_down(y, [state], noise, (samples,), "sample")
        return Bound(p_x.log_prob(y), tuple(log_ratios), None if closed_kls is None else closed_kls[0])

    def codes(self, y: Tensor) -> list[Tensor]:
        """See `oodgen.models.density.Coded`."""
        q = dict(enumerate(self.posteriors(y), 1))
        state = LevelState({i: q_i.mean for i, q_i in q.items()}, q=q)
        self._top_down(y, [state], MedianNoise(), (1,), "mode")
        return [((state.z[i] - state.p[i].mean) / state.p[i].stddev)[0] for i in q]

    def _draw_posterior(self, i: int, q: Normal, noise: Noise, shape: tuple[int, int]) -> Tensor:
        """Samples (S, B, *latent) of a posterior of z_i, drawn at the noise sites of `bounds`; `shape` is (S, B)."""
        return draw(q, noise, f"q{i}", (*shape, *self.latents[i]))

    def _checked_level_terms(
        self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], up: str, down: str
    ) -> LevelTerms:
        if len(ks) != len(samples) or not all(0 <= k <= self.depth for k in ks):
            raise ValueError(f"levels {ks} with samples {samples} do not fit a hierarchy of {self.depth} layers")
        return self._level_terms(y, noise, ks, samples, up, down)

    @abstractmethod
    def _level_terms(
        self, y: Tensor, noise: Noise, ks: Sequence[int], samples: Sequence[int], up: str, down: str
    ) -> LevelTerms:
        """The terms of the bounds, with z_{>k} ~ q and z_{<=k} ~ p, for each level k."""

    @abstractmethod
    def _top_down(
        self, y: Tensor, states: Sequence[LevelState], noise: Noise, samples: Sequence[int], down: str
    ) -> LevelTerms:
        """Set p of the layers of each state that have a q, draw the others from p, and return the terms."""

    def _stage(self, i: int, up: bool, source: tuple[int, ...], skip: tuple[int, ...] | None = None) -> Stage:
        """The deterministic block of layer i on inputs of shapes `source` and `skip`; `up`: in the generative model."""
        spec = self.specs[i - 1]
        ends = (self.sizes[i], self.sizes[i - 1]) if up else (self.sizes[i - 1], self.sizes[i])
        blocks = (spec.channels, spec.kernel, spec.blocks, spec.stride, self.stride_first)
        return Stage(source, skip, *blocks, *ends, up)

    def _head(self, i: int, at: int, latent: tuple[int, ...]) -> FromFeatureMap:
        """Means and scales of a variable of shape `latent`, from a map of layer i's channels and layer `at`'s size."""
        return FromFeatureMap(self.specs[i - 1].channels, self.sizes[at], latent, 2)

    def _pixel_head(self) -> FromFeatureMap:
        """Parameters of the likelihood, from the lowest feature map."""
        return FromFeatureMap(
            self.specs[0].channels,
            self.sizes[0],
            (self.likelihood.parameter_channels(self.shape[0]), *self.sizes[0]),
            1,
        )

    def _map_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the image and of each layer's feature map."""
        return [self.shape, *((s.channels, *size) for s, size in zip(self.specs, self.sizes[1:], strict=True))]


class ChainVAE(HierarchicalVAE):
    r"""The generative model of the HVAE and the LVAE,

    $$p(x, z) = p(x | z_1) \prod_{i<L} p(z_i | z_{i+1})\, p(z_L), \qquad p(z_L) = \mathcal N(0, I),$$

    with, as an option, skip connections $z_{i+2} \to z_i$, where $z_0 = x$.

    Source: Havtorn et al. 2021, section 3 and appendix B.
    """

    prior: nn.ModuleList  # prior[i - 1] is p(z_i | z_{i+1}), i < L
    decoder: nn.ModuleList

    def _generative_networks(self, skips: bool) -> tuple[nn.ModuleList, nn.ModuleList]:
        """The networks of p(z_i | z_{i+1}), i < L, and of p(x | z_1)."""

        def stage(i: int) -> Stage:
            skip = self.latents[i + 1] if skips and i < self.depth else None
            return self._stage(i, True, self.latents[i], skip)

        prior = nn.ModuleList(
            ConditionalGaussian(stage(i + 1), self._head(i + 1, i, self.latents[i]), self.scale)
            for i in range(1, self.depth)
        )
        return prior, nn.ModuleList([stage(1), self._pixel_head()])

    def _top_down(
        self, y: Tensor, states: Sequence[LevelState], noise: Noise, samples: Sequence[int], down: str
    ) -> LevelTerms:
        z = [state.z for state in states]
        for i in range(self.depth, 0, -1):
            for s, state, p in zip(samples, states, self._priors(i, z, y.device), strict=True):
                if i in state.q:
                    state.p[i] = p
                else:
                    state.z[i] = draw(p, noise, f"p{i}", (s, len(y), *self.latents[i]), down)
        return self._collect_terms(y, states, samples)

    def _collect_terms(self, y: Tensor, states: Sequence[LevelState], samples: Sequence[int]) -> LevelTerms:
        """The terms of states in which all layers are set."""
        return LevelTerms(self._likelihood([state.z for state in states]), [state.log_ratios for state in states])

    def _priors(self, i: int, states: Sequence[Mapping[int, Tensor]], device: torch.device) -> list[Normal]:
        """p(z_i | z_{>i}) for the variables of each state, computed once for states that share z_{>i}."""
        if i == self.depth:
            return [standard_normal(self.latents[i], device)] * len(states)
        keys = [(id(z[i + 1]), id(z.get(i + 2))) for z in states]
        distinct = dict(zip(keys, states, strict=True))
        skip = cat_samples([z[i + 2] for z in distinct.values()]) if i + 2 <= self.depth else None
        p = self.prior[i - 1](cat_samples([z[i + 1] for z in distinct.values()]), skip)
        priors = dict(zip(distinct, split_samples(p, [len(z[i + 1]) for z in distinct.values()]), strict=True))
        return [priors[key] for key in keys]

    def _likelihood(self, states: Sequence[Mapping[int, Tensor]]) -> Distribution:
        """p(x | z) of all states, concatenated along the sample axis."""
        stage, head = self.decoder
        skip = cat_samples([z[2] for z in states]) if self.depth >= 2 else None
        return self.likelihood(batched(head, batched(stage, cat_samples([z[1] for z in states]), skip)))
