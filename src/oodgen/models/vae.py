r"""The variational autoencoder of images with one layer of latent variables; see `oodgen.models.one_layer`.

Source: Kingma & Welling 2014; Ran et al. 2021 (papers/bpvae, section 2); Csiszárik et al. 2019
(papers/negative_sampling, section 1).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from oodgen.errors import UserError
from oodgen.models.likelihoods import Likelihood
from oodgen.models.one_layer import OneLayerVAE, diagonal_gaussian
from oodgen.models.priors import Prior
from oodgen.noise import Noise
from oodgen.options import Activation, Count, Positive

__all__ = ["VAE", "Decoder", "Encoder", "Isotropic"]

Size = tuple[int, int]


class Isotropic(Prior):
    r"""The prior $\mathcal N(m \mathbf 1, \sigma^2 I)$ of codes; its centre is its mean.

    Arguments:
        mean: m, the same for every coordinate.
        sigma: $\sigma$, the same for every coordinate.
    """

    mean: Tensor
    sigma: Tensor

    def __init__(self, mean: float = 0.0, sigma: Positive = 1.0) -> None:
        super().__init__()
        # options, not weights: not part of the state_dict
        self.register_buffer("mean", torch.tensor(float(mean)), persistent=False)
        self.register_buffer("sigma", torch.tensor(float(sigma)), persistent=False)

    def forward(self) -> Normal:
        """The distribution of one coordinate."""
        return Normal(self.mean, self.sigma, validate_args=False)

    def draw(self, noise: Noise, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        return self.mean + self.sigma * noise.normal("p1", shape, device)

    def centre(self, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        return self.mean.expand(shape)


class Encoder(nn.Module):
    r"""$q(z | y)$: strided convolutions, optionally one over the whole map, and a linear layer to $\mu$ and $\log s^2$.

    Arguments:
        sizes: Spatial sizes of the image and of each convolution's output.
        channels: Channels of the image and of each convolution's output.
        kernel: Kernel size.
        strides: Of the convolutions.
        latent: d, the dimension of z.
        activation: Name of a torch.nn module.
        batch_norm: Batch normalisation before each activation.
        hidden: Channels of the convolution over the whole map; None for none.
        centred: Feed $2y - 1$ instead of y.
    """

    def __init__(
        self,
        sizes: Sequence[Size],
        channels: Sequence[int],
        kernel: int,
        strides: Sequence[int],
        latent: int,
        activation: str,
        batch_norm: bool,
        hidden: int | None = None,
        centred: bool = False,
    ) -> None:
        super().__init__()
        self.centred = centred
        self.features = nn.Sequential()
        for (below, above), stride in zip(pairwise(channels), strides, strict=True):
            self.features.append(nn.Conv2d(below, above, kernel, stride, (kernel - 1) // 2, bias=not batch_norm))
            _append_activation(self.features, above, activation, batch_norm)
        if hidden is not None:
            self.features.append(nn.Conv2d(channels[-1], hidden, sizes[-1], bias=not batch_norm))
            _append_activation(self.features, hidden, activation, batch_norm)
        self.head = nn.Linear(hidden or channels[-1] * math.prod(sizes[-1]), 2 * latent)

    def forward(self, y: Tensor) -> Normal:
        """Observed images (B, C, H, W) to the Gaussian of codes (B, d)."""
        return diagonal_gaussian(self.head(self.features(2 * y - 1 if self.centred else y).flatten(1)))


class Decoder(nn.Module):
    r"""$p(x | z)$: a linear layer, then transposed convolutions.

    Arguments:
        sizes: Spatial sizes of the image and of each convolution's output.
        strides: Of the convolutions, in the order of `sizes`.
        kernel, latent, activation, batch_norm: The encoder's.
        channels: Input channels of the transposed convolutions.
        outputs: Channels of the last layer, which has neither normalisation nor activation.
        likelihood: Observation model.
    """

    def __init__(
        self,
        sizes: Sequence[Size],
        channels: Sequence[int],
        kernel: int,
        strides: Sequence[int],
        latent: int,
        activation: str,
        batch_norm: bool,
        outputs: int,
        likelihood: Likelihood,
    ) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.shape = (channels[0], *sizes[-1])
        self.lift = nn.Sequential(nn.Linear(latent, math.prod(self.shape)), nn.Unflatten(1, self.shape))
        _append_activation(self.lift, channels[0], activation, batch_norm)
        self.features = nn.Sequential()
        padding = (kernel - 1) // 2
        steps = zip(pairwise([*channels, outputs]), pairwise(reversed(sizes)), reversed(strides), strict=True)
        for i, ((above, below), (start, goal), stride) in enumerate(steps, 1):
            extra = tuple(g - ((s - 1) * stride - 2 * padding + kernel) for s, g in zip(start, goal, strict=True))
            last = i == len(strides)
            self.features.append(
                nn.ConvTranspose2d(above, below, kernel, stride, padding, extra, bias=last or not batch_norm)  # type: ignore[arg-type]
            )
            if not last:
                _append_activation(self.features, below, activation, batch_norm)

    def forward(self, z: Tensor) -> Distribution:
        """Codes (S, B, d) to the distribution of images, whose `log_prob` has shape (S, B)."""
        return self.likelihood(self.features(self.lift(z.flatten(0, 1))).unflatten(0, z.shape[:2]))


def _append_activation(layers: nn.Sequential, channels: int, activation: str, batch_norm: bool) -> None:
    if batch_norm:
        layers.append(nn.BatchNorm2d(channels))
    layers.append(getattr(nn, activation)())


class VAE(OneLayerVAE):
    r"""The variational autoencoder of images: convolutions in both networks.

    Arguments:
        shape: Image shape (C, H, W).
        latent: d, the dimension of z.
        channels: Of the encoder's convolutions.
        strides: Of the encoder's convolutions.
        kernel: Kernel size; an even one halves an even size exactly, but needs stride 2.
        likelihood: Observation model $p(x | z)$.
        decoder: Input channels of the decoder's transposed convolutions; None mirrors `channels`.
        decoder_strides: Of the decoder's convolutions, as many as `decoder` has; None mirrors `strides`.
        activation: Name of a torch.nn module.
        batch_norm: Batch normalisation in each layer but the last.
        hidden: Channels of a further convolution of the encoder, over the whole of the smallest map; None for none.
        centred: The encoder is fed $2y - 1$; for likelihoods whose y lies in [0, 1].
        prior: p(z); None is $\mathcal N(0, I)$.

    Raises:
        UserError: sizes, strides and channels do not fit each other.
    """

    def __init__(
        self,
        shape: Sequence[Count],
        latent: Count,
        channels: Sequence[Count],
        strides: Sequence[Count],
        kernel: Count,
        likelihood: Likelihood,
        decoder: Sequence[Count] | None = None,
        decoder_strides: Sequence[Count] | None = None,
        activation: Activation = "ReLU",
        batch_norm: bool = False,
        hidden: Count | None = None,
        centred: bool = False,
        prior: Prior | None = None,
    ) -> None:
        down = list(reversed(channels)) if decoder is None else list(decoder)
        up = list(strides if decoder_strides is None else reversed(decoder_strides))  # the image's first
        if not len(channels) == len(strides) > 0 or not len(down) == len(up) > 0:
            given = "" if decoder_strides is None else f" decoder_strides={list(decoder_strides)}"
            raise UserError(
                f"model: channels={list(channels)}, strides={list(strides)} and decoder={down}{given} must have the "
                "same length"
            )
        if len(shape) != 3:
            raise UserError(f"model.shape={list(shape)} is not an image shape [channels,height,width]")
        colours, height, width = shape
        sizes, larger = (_map_sizes((height, width), kernel, path) for path in (strides, up))
        if sizes[-1] != larger[-1]:
            raise UserError(
                f"model: the encoder's last feature map is {sizes[-1]}, the decoder's first is {larger[-1]}; "
                "strides and decoder_strides must have the same product"
            )
        rest = (latent, activation, batch_norm)
        networks = (
            Encoder(sizes, [colours, *channels], kernel, list(strides), *rest, hidden, centred),
            Decoder(larger, down, kernel, up, *rest, likelihood.parameter_channels(colours), likelihood),
        )
        super().__init__(shape, latent, likelihood, *networks, prior or Isotropic())


def _map_sizes(image: Size, kernel: int, strides: Sequence[int]) -> list[Size]:
    """The sizes of an image and of the outputs of convolutions with these strides."""
    sizes = [image]
    for stride in strides:
        height, width = ((n + 2 * ((kernel - 1) // 2) - kernel) // stride + 1 for n in sizes[-1])
        if min(height, width) < 1 or (stride == 1 and (height, width) != sizes[-1]):
            raise UserError(
                f"model: kernel={kernel} with stride {stride} does not fit a feature map of {sizes[-1]}; "
                "use an odd kernel, and strides that divide the size"
            )
        sizes.append((height, width))
    return sizes
