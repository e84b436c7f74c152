r"""The variational autoencoder of rows (tabular data): one hidden layer in each network.

Its bounds are those of `oodgen.models.one_layer.OneLayerVAE`.

Source: Choi, Jang, Alemi 2019, section 4.2 (papers/generative_ensembles, section 2, credit fraud), which gives the
widths of the hidden layers; their code has no activation there.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from oodgen.errors import UserError
from oodgen.models.likelihoods import Likelihood
from oodgen.models.one_layer import OneLayerVAE, diagonal_gaussian
from oodgen.models.priors import Prior
from oodgen.models.vae import Isotropic
from oodgen.options import Activation, Count

__all__ = ["DenseVAE"]


class Encoder(nn.Module):
    r"""$q(z | y)$: a hidden layer, then $\mu$ and $\log s^2$ of each coordinate."""

    def __init__(self, columns: int, hidden: int, latent: int, activation: str) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(columns, hidden), getattr(nn, activation)())
        self.head = nn.Linear(hidden, 2 * latent)

    def forward(self, y: Tensor) -> Normal:
        """Observed rows (B, D) to the Gaussian of codes (B, d)."""
        return diagonal_gaussian(self.head(self.features(y)))


class Decoder(nn.Module):
    r"""$p(x | z)$: a hidden layer, then the parameters of the likelihood."""

    def __init__(self, latent: int, hidden: int, outputs: int, activation: str, likelihood: Likelihood) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.features = nn.Sequential(nn.Linear(latent, hidden), getattr(nn, activation)(), nn.Linear(hidden, outputs))

    def forward(self, z: Tensor) -> Distribution:
        """Codes (S, B, d) to the distribution of rows, whose `log_prob` has shape (S, B)."""
        return self.likelihood(self.features(z))


class DenseVAE(OneLayerVAE):
    r"""The variational autoencoder of rows; `reconstruct` and `generate` are on the scale of `observe`.

    Arguments:
        shape: Shape of a row, (D,).
        latent: d, the dimension of z.
        encoder, decoder: Units of the hidden layer of each network.
        likelihood: Observation model $p(x | z)$ of rows.
        activation: Name of a torch.nn module; Identity makes both networks linear, as in the authors' code.
        prior: p(z); None is $\mathcal N(0, I)$.

    Raises:
        UserError: the shape is not that of a row.
    """

    def __init__(
        self,
        shape: Sequence[Count],
        latent: Count,
        encoder: Count,
        decoder: Count,
        likelihood: Likelihood,
        activation: Activation = "LeakyReLU",
        prior: Prior | None = None,
    ) -> None:
        if len(shape) != 1:
            raise UserError(f"model.shape={list(shape)} is not a row shape [columns]; choose another model for images")
        columns = shape[0]
        networks = (
            Encoder(columns, encoder, latent, activation),
            Decoder(latent, decoder, likelihood.parameter_channels(columns), activation, likelihood),
        )
        super().__init__(shape, latent, likelihood, *networks, prior or Isotropic())
