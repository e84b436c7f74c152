r"""Weight-normalised layers, residual blocks and stages: no probability here.

Weight normalisation with data-dependent initialisation (Salimans & Kingma 2016): $w = g\, v / \lVert v \rVert$, with g
and the bias set on the first batch so that every layer's output has mean 0 and variance 1 in each channel.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Convolution", "Dense", "Lift", "Lower", "Stage", "data_dependent_init"]


class Convolution(nn.Module):
    r"""A weight-normalised "same" convolution; with `up`, the transposed convolution that mirrors it.

    Arguments:
        channels_in: Input channels.
        channels_out: Output channels.
        kernel: Kernel size, odd.
        stride: Stride of the convolution, or factor of enlargement if `up`.
        up: Enlarge instead of reduce.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, up: bool = False) -> None:
        super().__init__()
        self.stride, self.padding, self.up = stride, kernel // 2, up
        shape = (channels_in, channels_out) if up else (channels_out, channels_in)
        self.v = _direction(*shape, kernel, kernel, inputs=channels_in * kernel * kernel)
        self.g = nn.Parameter(torch.ones(channels_out))
        self.b = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Maps (N, channels_in, H, W) to (N, channels_out, H', W'); `size` = (H', W') where `up` leaves a choice."""
        if not self.up:
            weight = _normalise(self.v, self.g, 0)
            return F.conv2d(x, weight, self.b, self.stride, self.padding)
        weight = _normalise(self.v, self.g, 1)
        height, width = size or (x.shape[2] * self.stride, x.shape[3] * self.stride)
        extra = [
            goal - ((have - 1) * self.stride - 2 * self.padding + self.v.shape[2])
            for goal, have in zip((height, width), x.shape[2:], strict=True)
        ]
        return F.conv_transpose2d(x, weight, self.b, self.stride, self.padding, extra)


class Dense(nn.Module):
    """A weight-normalised linear layer from (N, features_in) to (N, features_out)."""

    def __init__(self, features_in: int, features_out: int) -> None:
        super().__init__()
        self.v = _direction(features_out, features_in, inputs=features_in)
        self.g = nn.Parameter(torch.ones(features_out))
        self.b = nn.Parameter(torch.zeros(features_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, _normalise(self.v, self.g, 0), self.b)


def _direction(*shape: int, inputs: int) -> nn.Parameter:
    """v; its length does not matter, since it is divided out."""
    # of a filter with one weight only the sign is left: its gradient is rounding noise, which Adam would scale up to
    # full steps, until v crosses zero and the filter changes its sign at once
    return nn.Parameter(torch.empty(shape).normal_(std=0.05), requires_grad=inputs > 1)


def _normalise(v: Tensor, g: Tensor, axis: int) -> Tensor:
    """g v / ||v||, the norm over all axes but `axis`."""
    others = [i for i in range(v.ndim) if i != axis]
    shape = [-1 if i == axis else 1 for i in range(v.ndim)]
    return v * (g / torch.linalg.vector_norm(v, dim=others)).view(shape)


class Residual(nn.Module):
    r"""A residual block, $y = \mathrm{Conv}(\mathrm{ReLU}(\mathrm{Conv}_s(\mathrm{ReLU}(x)))) + x$.

    Source: hierarchical_llr, appendix B. With `up` the block is mirrored: the strided convolution comes second and is
    transposed. Where the stride changes the size, the residual path averages (or repeats) pixels.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, up: bool = False) -> None:
        super().__init__()
        self.stride, self.up = stride, up
        strided = Convolution(channels, channels, kernel, stride, up=up and stride > 1)
        plain = Convolution(channels, channels, kernel)
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


class Lift(nn.Module):
    """From a vector (N, D) or a map (N, C, H, W) to a feature map (N, channels, *size).

    A map of another size is averaged down or repeated up before a convolution; with a vector every pixel has its own
    weights.
    """

    def __init__(self, shape: tuple[int, ...], channels: int, size: tuple[int, int], kernel: int = 3) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        self.layer: nn.Module = (
            Dense(shape[0], channels * math.prod(size)) if len(shape) == 1 else Convolution(shape[0], channels, kernel)
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


class Lower(nn.Module):
    """From a feature map (N, channels, *size) to `count` numbers for each element of `shape`: (N, count * D) or map."""

    def __init__(self, channels: int, size: tuple[int, int], shape: tuple[int, ...], count: int) -> None:
        super().__init__()
        self.dense = len(shape) == 1
        self.layer: nn.Module = (
            Dense(channels * math.prod(size), count * shape[0])
            if self.dense
            else Convolution(channels, count * shape[0], 3)
        )

    def forward(self, h: Tensor) -> Tensor:
        h = F.relu(h)
        return self.layer(h.flatten(1) if self.dense else h)


class Stage(nn.Module):
    """The deterministic block before a stochastic layer: lift the latent variable, then residual blocks.

    Arguments:
        shape: Shape of the latent variable (or image) below (inference) or above (generation).
        skip: Shape of the one beyond it, for the skip connection z_i -> z_{i+2}; None for no skip.
        channels: Channels of the feature map.
        kernel: Kernel size of the residual blocks.
        blocks: Number of residual blocks.
        stride: Reduction (or enlargement, if `up`) from `size_in` to `size_out`.
        stride_first: Reduce in the first block instead of the last: cheaper, since the others then work on the
            smaller map. The paper reduces in the last.
        size_in, size_out: Spatial sizes before and after.
        up: A stage of the generative network, mirrored.
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
        self.lift = Lift(shape, channels, size_in)
        self.skip = Lift(skip, channels, size_in, kernel=1) if skip is not None else None
        strided = 0 if stride_first != up else blocks - 1
        self.blocks = nn.ModuleList(
            Residual(channels, kernel, stride if i == strided else 1, up) for i in range(blocks)
        )

    def forward(self, z: Tensor, beyond: Tensor | None = None) -> Tensor:
        """Features (N, channels, *size_out)."""
        h = self.lift(z)
        if self.skip is not None and beyond is not None:
            h = h + self.skip(beyond)
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

    def rescale(layer: Convolution | Dense, inputs: tuple, output: Tensor) -> Tensor:
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

    layers = [layer for layer in module.modules() if isinstance(layer, Convolution | Dense)]
    handles = [layer.register_forward_hook(rescale) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
