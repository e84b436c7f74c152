r"""Errors of the reconstruction of an image from its code."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from oodgen.models.density import Hierarchy
from oodgen.noise import ExampleNoise
from oodgen.probes.probe import Evidence

__all__ = ["Reconstruction"]

# The variance of rounding to a grey level, the least mean squared error that 8-bit images resolve.
ROUNDING = 1 / 12 / 255**2


@dataclass(frozen=True)
class Reconstruction:
    r"""Mean squared error, PSNR and SSIM of $\hat x = \mathbb E[x | z]$, one sample $z \sim q(z | x)$, for each image.

    Evidence, for images on [0, 1]: `mse` (N,); `psnr` (N,) in dB, $-10 \log_{10} \max(\mathrm{mse}, 255^{-2} / 12)$,
    at most 58.9, so that means stay finite; `ssim` (N,), at most 1, with a Gaussian
    window of $\sigma = 1.5$.

    Source: Ran et al. 2021, table 1, whose PSNR is a mean over images (papers/bpvae, section 7.6).
    """

    needs = Hierarchy

    def batch(self, model: Hierarchy) -> int:
        return 200

    def __call__(self, model: Hierarchy, x: Tensor, noise: ExampleNoise) -> Evidence:
        target = x.float() / 255
        image = model.reconstruct(model.observe(x, noise), noise, 0).float().clamp(0, 1)
        mse = (image - target).square().mean((1, 2, 3))
        # SSIM's local variances are differences of convolutions, which cancel in bf16
        with torch.autocast(x.device.type, enabled=False):
            ssim: Tensor = structural_similarity_index_measure(image, target, data_range=1.0, reduction="none")  # type: ignore[assignment]
        return {"mse": mse, "psnr": -10 * mse.clamp_min(ROUNDING).log10(), "ssim": ssim}
