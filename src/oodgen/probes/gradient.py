r"""Gradients of each example's bound with respect to the model's parameters: norms, and Rao's statistic."""

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from oodgen.models.density import Density
from oodgen.noise import ExampleNoise, MedianNoise
from oodgen.options import Count
from oodgen.probes.probe import Evidence

__all__ = ["Gradient", "blocks"]


@dataclass(frozen=True)
class Gradient:
    r"""Norms of $g(x) = \nabla_\theta \mathcal L(x; \theta)$ for each block b of parameters, and Rao's statistic.

    $$\log \lVert g_b \rVert^2, \qquad g^\top F^{-1} g = \sum_i g_i^2 / F_i, \qquad
    F_i = \frac{1}{M + 1} \Big[\bar F_b + \sum_{m=1}^M g_i(x_m)^2\Big]$$

    M training examples give the diagonal Fisher information F. $\bar F_b$, the mean of their $g_i^2$ over the block,
    counts as one more, so that $F_i$ of a parameter that none of them moves is small and not zero; a block that none
    of them moves is left out. Latent variables are at the medians of their posteriors, so $\mathcal L$ is the bound's
    integrand there and not its mean over samples: a sample's noise in g is as large as what tells examples apart.

    Evidence: `log_norm` (blocks, N), the blocks in the order of `blocks`, at least -691, of g in nats per unit of a
    parameter; `rao` (N,), without unit, on average the number of parameters on the M examples.

    Arguments:
        examples: M, the first of the training part.
        fitted: `fisher` (P,), the $F_i$ in the order of `blocks`, from `fit`.

    Source: Dauncey et al. 2024 (arXiv:2403.01485) for norms, there of each layer; Bergamin et al. 2022 for Rao's
        statistic of deep generative models with a diagonal F.
    """

    examples: Count = 1000
    fitted: Mapping[str, Tensor] | None = field(default=None, repr=False)
    needs = Density
    gradients = True

    def batch(self, model: Density) -> int:
        # all gradients of a batch are in memory at once
        numbers = 2**29 if next(model.parameters()).device.type == "cuda" else 2**24
        return min(100, max(1, numbers // sum(parameter.numel() for parameter in model.parameters())))

    def fit(self, model: Density, examples: Iterable[tuple[Tensor, Tensor | None, ExampleNoise]]) -> "Gradient":
        """The probe with the Fisher information of the first of batches of examples, labels and noise."""
        seen, sums = 0, {name: torch.zeros(()) for names in blocks(model).values() for name in names}
        for x, _, noise in examples:
            wanted, draws = min(len(x), self.examples - seen), copy(noise)  # a copy keeps the class of the noise
            draws.index = noise.index[:wanted]
            gradients = _gradients(model, x[:wanted], draws)
            sums = {name: total + gradients[name].double().square().sum(0) for name, total in sums.items()}
            seen += wanted
            if seen == self.examples:
                break
        parts = []
        for names in blocks(model).values():
            total = torch.cat([sums[name].flatten() for name in names])
            parts.append((total + total.mean() / seen) / (seen + 1))
        return replace(self, fitted={"fisher": torch.cat(parts).float()})

    def __call__(self, model: Density, x: Tensor, noise: ExampleNoise) -> Evidence:
        if self.fitted is None:
            raise ValueError("Gradient must be fitted on training examples before it is called")
        gradients = _gradients(model, x, noise)
        sizes = [sum(gradients[name][0].numel() for name in names) for names in blocks(model).values()]
        norms, rao = [], torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for names, fisher in zip(blocks(model).values(), self.fitted["fisher"].to(x.device).split(sizes), strict=True):
            squares = torch.cat([gradients[name].flatten(1).double().square() for name in names], 1)
            norms.append(squares.sum(1).clamp_min(1e-300).log())
            rao += squares @ torch.where(fisher > 0, 1 / fisher.double(), 0.0)
        return {"log_norm": torch.stack(norms).float(), "rao": rao.float()}


def blocks(model: nn.Module) -> dict[str, list[str]]:
    """The names of a model's trained parameters by block: those with the same first two components of their name.

    So a block is one network of a layer in a hierarchy (`posterior.0`, `prior.1`, `decoder.0`), features or head of
    a VAE's network (`encoder.features`, `encoder.head`), and one level of a flow (`chains.0`, `splits.0`).
    """
    found: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault(".".join(name.split(".")[:2]), []).append(name)
    return found


def _gradients(model: Density, x: Tensor, noise: ExampleNoise) -> dict[str, Tensor]:
    """The gradient of each example's bound with respect to each trained parameter, (B, *parameter), nats."""
    weights = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}

    def bound(weights: dict[str, Tensor], y: Tensor) -> Tensor:
        value: Tensor = functional_call(model, weights, (y.unsqueeze(0), MedianNoise())).elbo[0, 0]
        return value

    # bf16 is too coarse for small gradients
    with torch.autocast(x.device.type, enabled=False):
        y = model.observe(x, noise)
        gradients: dict[str, Tensor] = vmap(grad(bound), in_dims=(None, 0))(weights, y)
    return gradients
