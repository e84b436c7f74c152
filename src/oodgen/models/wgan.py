r"""A Wasserstein GAN: a generator G of images and a critic D that separates them from the data.

Over 1-Lipschitz D (`oodgen.methods.wgan` enforces this by a penalty) the maximum of
$\mathbb E_{p(x)} D(x) - \mathbb E_{p(z)} D(G(z))$ is the Wasserstein-1 distance of the two distributions.

Source: Arjovsky et al. 2017; Choi et al. 2019, section 4 (papers/generative_ensembles, section 2), whose networks are
those of their VAE.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oodgen.errors import UserError
from oodgen.noise import Noise
from oodgen.options import Count

__all__ = ["WGAN"]

SLOPE = 0.2  # of the leaky ReLU below zero, TensorFlow's default


class WGAN(nn.Module):
    r"""Generator and critic of images whose sides are multiples of 4; see `oodgen.models.critic.Critic`.

    The critic: two pairs of 5 x 5 convolutions, the second of each with stride 2; one convolution over the remaining
    map (7 x 7 for images of 28 x 28, 8 x 8 for 32 x 32); a linear layer to d numbers, as in the VAE, and one to D(x).
    The generator mirrors it with transposed convolutions and ends with a 5 x 5 convolution and a sigmoid, the mean of
    the VAE's Bernoulli decoder.

    Stored pixels are observed as x / 255; the gradient of D is penalised on this scale.

    Arguments:
        shape: Image shape (C, H, W).
        latent: d, the dimension of z.
        channels: Channels of the widest maps; twice as many after the first halving.

    Raises:
        UserError: H or W is not a multiple of 4, or the shape is not that of an image.

    Source: the authors' code for widths, slope and initialisation (rich_latent), whose generator has no sigmoid.
    """

    def __init__(self, shape: Sequence[Count], latent: Count = 128, channels: Count = 32) -> None:
        super().__init__()
        if len(shape) != 3:
            raise UserError(f"model.shape={list(shape)} is not an image shape [channels,height,width]")
        colours, height, width = self.shape = tuple(shape)
        if height % 4 or width % 4:
            fit = [4 * -(-n // 4) for n in (height, width)]
            raise UserError(
                f"model: {height} x {width} pixels are not divisible by 4; "
                f"set data.size=[{fit[0]},{fit[1]}] and model.shape=[{colours},{fit[0]},{fit[1]}]"
            )
        self.latent, whole = latent, (height // 4, width // 4)
        c, act = channels, nn.LeakyReLU(SLOPE)
        self.generator = nn.Sequential(
            *(nn.Unflatten(1, (latent, 1, 1)), nn.ConvTranspose2d(latent, 2 * c, whole), act),
            *(nn.ConvTranspose2d(2 * c, 2 * c, 5, 1, 2), act, nn.ConvTranspose2d(2 * c, 2 * c, 5, 2, 2, 1), act),
            *(nn.ConvTranspose2d(2 * c, c, 5, 1, 2), act, nn.ConvTranspose2d(c, c, 5, 2, 2, 1), act),
            *(nn.ConvTranspose2d(c, c, 5, 1, 2), act, nn.Conv2d(c, colours, 5, 1, 2)),
        )
        features = nn.Sequential(
            *(nn.Conv2d(colours, c, 5, 1, 2), act, nn.Conv2d(c, c, 5, 2, 2), act),
            *(nn.Conv2d(c, 2 * c, 5, 1, 2), act, nn.Conv2d(2 * c, 2 * c, 5, 2, 2), act),
            *(nn.Conv2d(2 * c, 4 * latent, whole), act, nn.Flatten()),
        )
        # two linear layers: the same functions as one, but other learning dynamics
        self.critic = nn.Sequential(features, nn.Sequential(nn.Linear(4 * latent, latent), nn.Linear(latent, 1)))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def observe(self, x: Tensor, noise: Noise) -> Tensor:
        return x / 255

    def value(self, y: Tensor) -> Tensor:
        features, head = self.critic
        h = features(2 * y - 1).to(next(head.parameters()).dtype)
        # metrics use ranks of this number; bf16 would make many ties
        with torch.autocast(y.device.type, enabled=False):
            return head(h).squeeze(1)

    def plausibility(self, y: Tensor, noise: Noise) -> Tensor:
        return self.value(y)

    def generate(self, count: int, noise: Noise) -> Tensor:
        z = noise.normal("z", (1, count, self.latent), next(self.parameters()).device)[0]
        return self.generator(z).to(z.dtype).sigmoid()  # float32: above 1/2 bf16 has fewer values than 256 levels
