r"""Invertible layers of a multi-scale normalising flow.

A layer maps x to $z = f(x)$ and returns $\log |\det \partial z / \partial x|$ with it, in nats for each example, shape
(B,), or () if it is the same for all; `inverse` maps z back. Networks inside may run in bf16; z and log-determinants
are computed in float32 or better.

Source: Kingma & Dhariwal 2018 (Glow), table 1; Dinh et al. 2017 (Real NVP), section 3.6 for the split.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ActNorm", "Coupling", "FlowSequential", "Mixing", "Split", "data_dependent_init"]


class ActNorm(nn.Module):
    r"""$z_c = e^{s_c} (x_c + b_c)$ for each channel c, with log-determinant $H W \sum_c s_c$."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = (x + self.shift.view(-1, 1, 1)) * self.log_scale.exp().view(-1, 1, 1)
        return z, self.log_scale.sum() * (x.shape[2] * x.shape[3])

    def inverse(self, z: Tensor) -> Tensor:
        return z * (-self.log_scale).exp().view(-1, 1, 1) - self.shift.view(-1, 1, 1)


class Mixing(nn.Module):
    r"""The invertible 1x1 convolution $z = W x$ at every pixel, $W = P L (U + \mathrm{diag}(\pm e^{s}))$.

    P is a permutation, L unit lower and U strictly upper triangular, initialised as the factors of a random rotation. P
    and the signs are fixed. The log-determinant is $H W \sum_c s_c$, and the inverse two triangular solves.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels)).Q
        permutation, lower, upper = torch.linalg.lu(rotation)
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", upper.diagonal().sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_scale = nn.Parameter(upper.diagonal().abs().log())

    def factors(self) -> tuple[Tensor, Tensor]:
        """L and U with their diagonals, each (C, C)."""
        lower = self.lower.tril(-1) + torch.eye(len(self.lower), dtype=self.lower.dtype, device=self.lower.device)
        return lower, self.upper.triu(1) + (self.sign * self.log_scale.exp()).diag()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # F.linear in full precision: bf16 or a convolution in tf32 would not match the log-determinant
        with torch.autocast(x.device.type, enabled=False):
            lower, upper = self.factors()
            z = F.linear(x.movedim(1, -1), self.permutation @ lower @ upper).movedim(-1, 1)
        return z, self.log_scale.sum() * (x.shape[2] * x.shape[3])

    def inverse(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            lower, upper = self.factors()
            columns = self.permutation.T @ z.movedim(1, 0).flatten(1)
            columns = torch.linalg.solve_triangular(lower, columns, upper=False, unitriangular=True)
            columns = torch.linalg.solve_triangular(upper, columns, upper=True)
            return columns.view(z.shape[1], len(z), *z.shape[2:]).movedim(0, 1)


class ActNormConv2d(nn.Module):
    """A "same" convolution followed by an actnorm that is folded into its weights."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, kernel, kernel).normal_(std=0.05))
        self.shift = nn.Parameter(torch.zeros(channels_out))
        self.log_scale = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.log_scale.exp()
        return F.conv2d(x, self.weight * scale.view(-1, 1, 1, 1), self.shift * scale, padding="same")


class ZeroInitConv2d(nn.Module):
    """A 3x3 convolution with zero initial weights and channels scaled by $e^{3 r}$, r learned; float32 output."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels_out, channels_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.log_scale = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        scale = (3 * self.log_scale).exp()
        value = F.conv2d(x, self.weight * scale.view(-1, 1, 1, 1), self.bias * scale, padding="same")
        return value.to(torch.promote_types(value.dtype, torch.float32))


class Coupling(nn.Module):
    r"""An affine coupling of the two halves of the channels: $z_a = x_a$, $z_b = \sigma(r + 2) \odot (x_b + t)$.

    $(t, r) = g(x_a)$ with g a network of 3x3, 1x1 and 3x3 convolutions that is 0 initially. The scale lies in (0, 1);
    the sum of its logarithm, computed by `logsigmoid`, is the log-determinant. An additive coupling has $z_b = x_b + t$
    and log-determinant 0.
    """

    def __init__(self, channels: int, hidden: int, affine: bool) -> None:
        super().__init__()
        self.affine, half = affine, channels // 2
        self.network = nn.Sequential(
            ActNormConv2d(half, hidden, 3),
            nn.ReLU(),
            ActNormConv2d(hidden, hidden, 1),
            nn.ReLU(),
            ZeroInitConv2d(hidden, channels if affine else half),
        )

    def _shift_and_log_scale(self, a: Tensor) -> tuple[Tensor, Tensor]:
        value = self.network(a)
        if not self.affine:
            return value, torch.zeros_like(value)
        shift, raw = value.chunk(2, 1)
        return shift, F.logsigmoid(raw + 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, 1)
        shift, log_scale = self._shift_and_log_scale(a)
        return torch.cat([a, (b + shift) * log_scale.exp()], 1), log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        a, b = z.chunk(2, 1)
        shift, log_scale = self._shift_and_log_scale(a)
        return torch.cat([a, b * (-log_scale).exp() - shift], 1)


class FlowSequential(nn.Module):
    """Invertible layers in sequence; log-determinants add."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer(x)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            z = layer.inverse(z)  # type: ignore[operator]
        return z


class Split(nn.Module):
    r"""Factor out half of the channels with the prior $z_b \sim \mathcal N(\mu(z_a), \sigma(z_a)^2)$.

    $\mu$ and $\log\sigma$ are a convolution of the other half, with zero initial weights. The code is the standardised
    $\epsilon = (z_b - \mu) / \sigma$, so that $-\log\sigma$ is part of the log-determinant and the base of the whole
    flow is standard normal.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.prior = ZeroInitConv2d(channels // 2, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The remaining half $z_a$, the code $\\epsilon$, and the log-determinant (B,)."""
        a, b = x.chunk(2, 1)
        mean, log_sigma = self.prior(a).chunk(2, 1)
        return a, (b - mean) * (-log_sigma).exp(), -log_sigma.flatten(1).sum(1)

    def inverse(self, a: Tensor, code: Tensor) -> Tensor:
        mean, log_sigma = self.prior(a).chunk(2, 1)
        return torch.cat([a, mean + log_sigma.exp() * code], 1)


@torch.no_grad()
def data_dependent_init(module: nn.Module, run: Callable[[], object]) -> None:
    """Set shift and scale of every actnorm so that its output in `run()` has mean 0, variance 1 per channel.

    `run` is one forward pass on a batch; layers are set in the order in which it reaches them, each on the output of
    those already set. A channel that is constant on the batch keeps its scale: there is no variance to set.
    """

    def adapt(layer: ActNorm | ActNormConv2d, inputs: tuple[Tensor], output: Tensor | tuple[Tensor, Tensor]) -> object:
        value = (output[0] if isinstance(output, tuple) else output).double()
        mean, deviation = value.mean((0, 2, 3)), value.std((0, 2, 3), correction=0)
        # relative to the values, whose rounding alone gives a constant channel a tiny deviation
        deviation = torch.where(deviation > 1e-5 * value.abs().amax((0, 2, 3)), deviation, 1.0)
        layer.shift.sub_(mean / layer.log_scale.double().exp())
        layer.log_scale.sub_(deviation.log())
        return layer.forward(*inputs)

    layers = [layer for layer in module.modules() if isinstance(layer, ActNorm | ActNormConv2d)]
    handles = [layer.register_forward_hook(adapt) for layer in layers]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
