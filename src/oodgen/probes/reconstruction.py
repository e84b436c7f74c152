r"""How well an image is reconstructed from its code."""

from dataclasses import dataclass

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from oodgen.models.density import Hierarchy
from oodgen.noise import ExampleNoise
from oodgen.probes.probe import Evidence

__all__ = ["Reconstruction"]


@dataclass(frozen=True)
class Reconstruction:
    r"""Mean squared error, PSNR and SSIM of $\hat x = \mathbb E[x | z]$, one sample $z \sim q(z | x)$, for each image.

    Evidence, for images on [0, 1]: `mse` (N,); `psnr` (N,) in dB, $-10 \log_{10} \mathrm{mse}$; `ssim` (N,), at most 1.

    Source: Ran et al. 2021, table 1, whose PSNR is a mean over images (papers/bpvae, section 7.6).
    """

    needs = Hierarchy

    def batch(self, model: Hierarchy) -> int:
        return 200

    def __call__(self, model: Hierarchy, x: Tensor, noise: ExampleNoise) -> Evidence:
        target = x.float() / 255
        image = model.reconstruct(model.observe(x, noise), noise, 0).float().clamp(0, 1)
        psnr = peak_signal_noise_ratio(image, target, data_range=1.0, reduction="none", dim=(1, 2, 3))
        ssim: Tensor = structural_similarity_index_measure(image, target, data_range=1.0, reduction="none")  # type: ignore[assignment]
        return {"mse": (image - target).square().mean((1, 2, 3)), "psnr": psnr, "ssim": ssim}
