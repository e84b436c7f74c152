r"""Statistics of the image alone, without a model: control scores, and the complexity term of Serrà et al.

Each may separate two data sets by itself; a model's score is informative only if it does better.
"""

import io
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from oodgen.errors import UserError
from oodgen.noise import ExampleNoise

__all__ = ["ImageStatistics", "compressed_bits", "statistics"]

MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)  # for its repr, which names stored evidence
class ImageStatistics:
    """Probe of the image alone: mean, entropy, total_variation, png_bits and jpeg2000_bits, each (B,) float32."""

    needs = object

    def batch(self, model: nn.Module) -> int:
        return 1000

    def __call__(self, model: nn.Module, x: Tensor, noise: ExampleNoise) -> dict[str, Tensor]:
        """The statistics of uint8 images x, (B, C, H, W); `model` and `noise` are ignored."""
        bits = {"png_bits": compressed_bits(x, "png"), "jpeg2000_bits": compressed_bits(x, "jpeg2000")}
        return {**statistics(x), **bits}


def statistics(x: Tensor) -> dict[str, Tensor]:
    r"""Three statistics of an image with intensities $p_i = x_i / 255$.

    * mean: $\frac1D \sum_i p_i$.
    * entropy: $-\sum_i p_i \log p_i + (1 - p_i) \log (1 - p_i)$, in nats, the entropy of the image's dynamic
      binarisation: the least expected negative log-likelihood of a Bernoulli decoder. It alone separates the test sets
      of MNIST and FashionMNIST with an AUROC of .9979.
    * total_variation: $\sum |p_{h+1,w} - p_{h,w}| + \sum |p_{h,w+1} - p_{h,w}|$, anisotropic.

    Arguments:
        x: uint8 images, shape (B, C, H, W).

    Returns:
        Tensors of shape (B,), float32, on the device of x.
    """
    _check(x)
    p = x.float() / 255
    levels = torch.linspace(0, 1, 256, device=x.device)
    entropy = (torch.special.entr(levels) + torch.special.entr(1 - levels))[x.int()]  # by lookup table
    vertical, horizontal = p.diff(dim=2).abs().sum((1, 2, 3)), p.diff(dim=3).abs().sum((1, 2, 3))
    return {"mean": p.mean((1, 2, 3)), "entropy": entropy.sum((1, 2, 3)), "total_variation": vertical + horizontal}


def compressed_bits(x: Tensor, codec: Literal["png", "jpeg2000"] = "png") -> Tensor:
    r"""Length $L(x)$ of the losslessly compressed image in bits (Serrà et al. 2020, Input Complexity, section 3).

    The header is included: a constant for images of one shape. PNG is at zlib level 9, JPEG 2000 the bare codestream of
    the reversible transform, without the container of a .jp2 file. Lengths may differ by a few bytes between versions
    of zlib and OpenJPEG. Images are compressed on a few threads; Pillow releases the GIL for PNG only.

    Arguments:
        x: uint8 images with one or three colours, shape (B, C, H, W).
        codec: "png" or "jpeg2000".

    Returns:
        Bits, shape (B,), float32, on the device of x.

    Raises:
        UserError: unknown codec, or images that are not uint8 with one or three colours.
    """
    _check(x)
    if x.shape[1] not in MODES:
        raise UserError(f"{codec} codes images of 1 or 3 colours, not of {x.shape[1]}: leave this probe out")
    options: dict[str, Any]
    if codec == "png":
        options = {"format": "PNG", "compress_level": 9}
    elif codec == "jpeg2000":
        # every wavelet level halves the image; OpenJPEG rejects more levels than the smaller side allows
        resolutions = min(6, int(math.log2(min(x.shape[2:]))) + 1)
        options = {"format": "JPEG2000", "no_jp2": True, "irreversible": False, "num_resolutions": resolutions}
    else:
        raise UserError(f"codec={codec!r} is unknown: choose one of png, jpeg2000")
    mode, size = MODES[x.shape[1]], (x.shape[3], x.shape[2])
    pixels = x.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def bits(i: int) -> int:
        file = io.BytesIO()
        Image.frombytes(mode, size, pixels[i].tobytes()).save(file, **options)
        return 8 * file.getbuffer().nbytes

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return torch.tensor(list(pool.map(bits, range(len(pixels)))), dtype=torch.float32, device=x.device)


def _check(x: Tensor) -> None:
    if x.dtype != torch.uint8 or x.dim() != 4:
        raise UserError(
            f"image statistics need uint8 images (B, C, H, W), not {x.dtype} {tuple(x.shape)}: leave this probe out"
        )
