r"""Deterministic networks of the hierarchical VAEs: weight-normalised layers, residual blocks and stages.

Weight normalisation with data-dependent initialisation (Salimans & Kingma 2016): $w = g\, v / \lVert v \rVert$, with g
and the bias set on the first batch so that every layer's output has mean 0 and variance 1 in each channel.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FromFeatureMap", "Stage", "ToFeatureMap", "WeightNormConv2d", "WeightNormLinear", "data_dependent_init"]


class WeightNormConv2d(nn.Module):
    r"""A weight-normalised "same" convolution; with `up`, the transposed convolution that mirrors it.

    Arguments:
        channels_in: Input channels.
        channels_out: Output channels.
        kernel: Kernel size, odd.
        stride: Stride of the convolution, or factor of enlargement if `up`.
        up: Transposed: enlarge the map instead of reducing it.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, up: bool = False) -> None:
        super().__init__()
        self.stride, self.padding, self.up = stride, kernel // 2, up
        shape = (channels_in, channels_out) if up else (channels_out, channels_in)
        self.v = _initial_v(*shape, kernel, kernel, inputs=channels_in * kernel * kernel)
        self.g = nn.Parameter(torch.ones(channels_out))
        self.b = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Maps (N, channels_in, H, W) to (N, channels_out, H', W').

        `size` = (H', W') selects the output size with `up`, by default `stride` times the input's; ignored without.
        """
        if not self.up:
            weight = _weight(self.v, self.g, 0)
            return F.conv2d(x, weight, self.b, self.stride, self.padding)
        weight = _weight(self.v, self.g, 1)
        height, width = size or (x.shape[2] * self.stride, x.shape[3] * self.stride)
        extra = [
            target - ((current - 1) * self.stride - 2 * self.padding + self.v.shape[2])
            for target, current in zip((height, width), x.shape[2:], strict=True)
        ]
        return F.conv_transpose2d(x, weight, self.b, self.stride, self.padding, extra)


class WeightNormLinear(nn.Module):
    """A weight-normalised linear layer from (N, features_in) to (N, features_out)."""

    def __init__(self, features_in: int, features_out: int) -> None:
        super().__init__()
        self.v = _initial_v(features_out, features_in, inputs=features_in)
        self.g = nn.Parameter(torch.ones(features_out))
        self.b = nn.Parameter(torch.zeros(features_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, _weight(self.v, self.g, 0), self.b)


def _initial_v(*shape: int, inputs: int) -> nn.Parameter:
    """v, whose norm is divided out."""
    # v of one element is fixed: only its sign matters, and Adam would amplify its gradient, which is rounding noise,
    # until v crosses zero
    return nn.Parameter(torch.empty(shape).normal_(std=0.05), requires_grad=inputs > 1)


def _weight(v: Tensor, g: Tensor, axis: int) -> Tensor:
    """g v / ||v||, the norm over all axes but `axis`."""
    others = [i for i in range(v.ndim) if i != axis]
    shape = [-1 if i == axis else 1 for i in range(v.ndim)]
    return v * (g / torch.linalg.vector_norm(v, dim=others)).view(shape)


class ResidualBlock(nn.Module):
    r"""A residual block, $y = \mathrm{Conv}(\mathrm{ReLU}(\mathrm{Conv}_s(\mathrm{ReLU}(x)))) + x$.

    With `up` the block is mirrored: the strided convolution comes second and is transposed. Where the stride changes
    the size, the residual path is average pooling (or nearest-neighbour upsampling).

    Source: Havtorn et al. 2021, appendix B.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, up: bool = False) -> None:
        super().__init__()
        self.stride, self.up = stride, up
        strided = WeightNormConv2d(channels, channels, kernel, stride, up=up and stride > 1)
        plain = WeightNormConv2d(channels, channels, kernel)
        self.first, self.second = (plain, strided) if up else (strided, plain)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Maps (N, C, H, W) to (N, C, H', W')."""
        h = F.relu(self.first(F.relu(x)))
        if self.stride == 1:
            return self.second(h) + x
        if self.up:
            h = self.second(h, size)
            return h + F.interpolate(x, size=h.shape[2:], mode="nearest")
        return self.second(h) + F.avg_pool2d(x, self.stride, ceil_mode=True)


class ToFeatureMap(nn.Module):
    """From a vector (N, D) or a map (N, C, H, W) to a feature map (N, channels, *size).

    A map of another size is average-pooled or upsampled (nearest neighbour) before a convolution; a vector goes through
    a linear layer.
    """

    def __init__(self, shape: tuple[int, ...], channels: int, size: tuple[int, int], kernel: int = 3) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        self.layer: nn.Module = (
            WeightNormLinear(shape[0], channels * math.prod(size))
            if len(shape) == 1
            else WeightNormConv2d(shape[0], channels, kernel)
        )

    def forward(self, z: Tensor) -> Tensor:
        if z.ndim == 2:
            return self.layer(z).unflatten(1, (self.channels, *self.size))
        pixels = z.shape[2] * z.shape[3]
        if pixels > math.prod(self.size):
            z = F.adaptive_avg_pool2d(z, self.size)
        elif pixels < math.prod(self.size):
            z = F.interpolate(z, size=self.size, mode="nearest")
        return self.layer(z)


class FromFeatureMap(nn.Module):
    """From a feature map (N, channels, *size) to `count` parameters of each element of a variable of `shape`.

    The output is (N, count * D) for a vector of D elements, (N, count * C, H, W) for a map.
    """

    def __init__(self, channels: int, size: tuple[int, int], shape: tuple[int, ...], count: int) -> None:
        super().__init__()
        self.dense = len(shape) == 1
        self.layer: nn.Module = (
            WeightNormLinear(channels * math.prod(size), count * shape[0])
            if self.dense
            else WeightNormConv2d(channels, count * shape[0], 3)
        )

    def forward(self, h: Tensor) -> Tensor:
        h = F.relu(h)
        return self.layer(h.flatten(1) if self.dense else h)


class Stage(nn.Module):
    """The deterministic block before a stochastic layer: `ToFeatureMap`, then residual blocks.

    Arguments:
        shape: Shape of the input: the latent variable (or image) below (inference) or above (generation).
        skip: Shape of the input of the skip connection z_i -> z_{i+2}; None for no skip.
        channels: Channels of the feature map.
        kernel: Kernel size of the residual blocks.
        blocks: Number of residual blocks.
        stride: Reduction (or enlargement, if `up`) from `size_in` to `size_out`.
        stride_first: Reduce in the first block instead of the last: cheaper, since the others then work on the
            smaller map. The paper reduces in the last.
        size_in, size_out: Spatial sizes before and after.
        up: A stage of the generative network, mirrored: `stride_first` then enlarges in the last block.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        skip: tuple[int, ...] | None,
        channels: int,
        kernel: int,
        blocks: int,
        stride: int,
        stride_first: bool,
        size_in: tuple[int, int],
        size_out: tuple[int, int],
        up: bool,
    ) -> None:
        super().__init__()
        self.size_out = size_out
        self.lift = ToFeatureMap(shape, channels, size_in)
        self.skip = ToFeatureMap(skip, channels, size_in, kernel=1) if skip is not None else None
        strided = 0 if stride_first != up else blocks - 1
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, kernel, stride if i == strided else 1, up) for i in range(blocks)
        )

    def forward(self, z: Tensor, skip: Tensor | None = None) -> Tensor:
        """Features (N, channels, *size_out) of inputs (N, *shape) and (N, *skip)."""
        h = self.lift(z)
        if self.skip is not None and skip is not None:
            h = h + self.skip(skip)
        for block in self.blocks:
            h = block(h, self.size_out)
        return h


@torch.no_grad()
def data_dependent_init(module: nn.Module, run: Callable[[], object]) -> None:
    """Set g and b of every weight-normalised layer so that its output in `run()` has mean 0, variance 1 per channel.

    `run` is one forward pass on a batch; layers are set in the order in which it reaches them, each on the output of
    those already set. A channel that is constant on the batch keeps its scale: there is no variance to set.
    """
    with _rescaling(module):
        run()


@contextmanager
def _rescaling(module: nn.Module) -> Iterator[None]:
    done: set[nn.Module] = set()

    def rescale(layer: WeightNormConv2d | WeightNormLinear, inputs: tuple, output: Tensor) -> Tensor:
        if layer in done:
            return output
        done.add(layer)
        axes = [0, *range(2, output.ndim)]
        value = output.float()
        mean, deviation = value.mean(axes), value.std(axes, correction=0)
        # relative to the values, whose rounding alone gives a constant channel a tiny deviation
        deviation = torch.where(deviation > 1e-5 * value.abs().amax(axes), deviation, 1.0)
        layer.g.div_(deviation)
        layer.b.sub_(mean).div_(deviation)
        shape = [1, -1] + [1] * (output.ndim - 2)
        return ((value - mean.view(shape)) / deviation.view(shape)).to(output.dtype)

    layers = [layer for layer in module.modules() if isinstance(layer, WeightNormConv2d | WeightNormLinear)]
    handles = [layer.register_forward_hook(rescale) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
