r"""`oodgen critics-2d --out FILE`: figure 2 of generative ensembles.

The data are a Gaussian at (5, 5) in the plane. A flow models $\log p(x)$. Independent Wasserstein GANs are trained with
a gradient penalty; then each generator is frozen, and its critic f is trained further as a classifier of data against
samples, $D = \sigma(f(x))$. Far from both the critics are untrained and differ, as the variance of D shows.

Source: Choi, Jang, Alemi 2019, figure 2. The networks and the further steps are those of the authors' code (critic
2-10-5-1, generator 4-10-2 and linear; 10,000); the steps before are fewer than theirs (5,000), with Adam.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn

from oodgen.errors import UserError
from oodgen.models.priors import Flow
from oodgen.plots import style
from oodgen.runs.escape import terminal
from oodgen.runs.invocation import check_ranges

__all__ = ["Grid", "main", "plot", "train"]

CENTRE, SIGMA, BATCH, CODE, PENALTY, CRITIC_STEPS = 5.0, 0.5, 128, 4, 10.0, 5
SIDE = 81  # grid points along each axis, which spans [0, 10]


class Grid(NamedTuple):
    """The values of figure 2 on a grid of SIDE x SIDE points, rows from below.

    Arguments:
        log_p: The flow's log-density, (SIDE, SIDE), nats.
        critics: D of each critic, (members, SIDE, SIDE).
        made: Samples of each generator, (members, n, 2).
    """

    log_p: Tensor
    critics: Tensor
    made: Tensor


class StackedNetworks(nn.Sequential):
    """Several dense networks evaluated in parallel, with leaky ReLU between the layers, or linear.

    The gradient of the sum of their losses is, for each one's weights, that of its own loss.
    """

    def __init__(self, members: int, widths: Sequence[int], linear: bool = False) -> None:
        layers: list[nn.Module] = []
        for below, above in pairwise(widths):
            layers += [_StackedLinear(members, below, above), nn.Identity() if linear else nn.LeakyReLU(0.2)]
        super().__init__(*layers[:-1])


class _StackedLinear(nn.Module):
    def __init__(self, members: int, below: int, above: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, below, above).uniform_(-1, 1) / below**0.5)
        self.bias = nn.Parameter(torch.zeros(members, 1, above))

    def forward(self, x: Tensor) -> Tensor:
        """Rows of every member (members, n, below) to (members, n, above)."""
        return torch.baddbmm(self.bias, x, self.weight)


def train(members: int = 4, steps: int = 2000, further: int = 10_000, seed: int = 0) -> Grid:
    """Train the flow and the GANs, and evaluate them on the grid.

    Arguments:
        members: Number of GANs.
        steps: Steps of the flow, and of each generator, with five critic steps before each.
        further: Critic steps against the frozen generators.
        seed: Seed of weights, data and noise.
    """
    torch.manual_seed(seed)
    flow = Flow(2, transforms=4, hidden=(32, 32))
    generators, critics = StackedNetworks(members, (CODE, 10, 2), linear=True), StackedNetworks(members, (2, 10, 5, 1))
    optimizer = torch.optim.Adam(flow.parameters(), 5e-3)
    for _ in range(steps):
        _step(optimizer, -flow().log_prob(_data(1)[0]).mean())
    learns, makes = (torch.optim.Adam(net.parameters(), 1e-3, (0.5, 0.9)) for net in (critics, generators))
    for _ in range(steps):
        for _ in range(CRITIC_STEPS):
            with torch.no_grad():
                made = generators(_codes(members))
            _step(learns, _critic_loss(critics, _data(members), made))
        _step(makes, -critics(generators(_codes(members))).mean((1, 2)).sum())
    for _ in range(further):
        with torch.no_grad():
            made = generators(_codes(members))
        true, false = critics(_data(members)), critics(made)
        _step(learns, (F.softplus(-true) + F.softplus(false)).mean((1, 2)).sum())
    axis = torch.linspace(0, 10, SIDE)
    grid = torch.cartesian_prod(axis, axis).flip(1)  # (x, y), y the slower one
    with torch.no_grad():
        value = critics(grid.expand(members, -1, 2)).sigmoid().view(members, SIDE, SIDE)
        return Grid(flow().log_prob(grid).view(SIDE, SIDE), value, generators(_codes(members)))


def plot(toy: Grid) -> Figure:
    r"""The density, each critic, and the variance of the critics; rings hold 39, 86 and 99 % of the data.

    $\log p$ is cut off 100 nats below its largest value.
    """
    members = len(toy.critics)
    panels: list[tuple[str, Tensor, float | None]]
    panels = [("flow: log p", toy.log_p.clamp_min(toy.log_p.max() - 100), None)]
    panels += [(f"critic {i}: D", value, 1.0) for i, value in enumerate(toy.critics, 1)]
    # the variance of numbers in [0, 1] is at most 1/4
    panels += [(f"variance of {members} D", toy.critics.var(0, correction=0), 0.25)]
    with matplotlib.rc_context(style.RC_PARAMS):
        return _plot(toy, panels)


def _plot(toy: Grid, panels: Sequence[tuple[str, Tensor, float | None]]) -> Figure:
    figure, axes = style.panels(len(panels), 3, 2.7, 2.35)
    colours = LinearSegmentedColormap.from_list("white to blue", ["white", style.BLUE])
    turn = np.linspace(0, 2 * np.pi, 200)
    for i, (axis, (title, value, top)) in enumerate(zip(axes, panels, strict=False)):
        image = axis.imshow(value.numpy(), colours, extent=(0, 10, 0, 10), origin="lower", interpolation="bilinear")
        if top is not None:
            image.set_clim(0, top)
        figure.colorbar(image, ax=axis, shrink=0.85).outline.set_visible(False)  # type: ignore[operator]
        for radius in (1, 2, 3):
            ring = CENTRE + radius * SIGMA * np.stack([np.cos(turn), np.sin(turn)])
            axis.plot(*ring, color=style.INK, linewidth=0.7, label="data, 1 to 3 standard deviations")
        if 1 <= i <= len(toy.made):
            axis.plot(*toy.made[i - 1].T.numpy(), ".", color=style.RED, markersize=1.5, label="generated samples")
        axis.set_title(title)
        axis.set(xlim=(0, 10), ylim=(0, 10), xticks=(0, 5, 10), yticks=(0, 5, 10))
    return style.add_legend(figure, axes, len(panels))


def _data(members: int) -> Tensor:
    return CENTRE + SIGMA * torch.randn(members, BATCH, 2)


def _codes(members: int) -> Tensor:
    return torch.randn(members, BATCH, CODE)


def _critic_loss(critics: StackedNetworks, true: Tensor, made: Tensor) -> Tensor:
    r"""$\mathbb E f(\tilde x) - \mathbb E f(x) + 10\, \mathbb E (\|\nabla f(\hat x)\| - 1)^2$, summed over members."""
    between = true + torch.rand(*true.shape[:2], 1) * (made - true)
    slope = torch.autograd.grad(critics(between.requires_grad_()).sum(), between, create_graph=True)[0]
    penalty = (slope.norm(dim=2) - 1).square().mean(1)
    return (critics(made).mean((1, 2)) - critics(true).mean((1, 2)) + PENALTY * penalty).sum()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="oodgen critics-2d",
        description="Train a flow and four GANs on a Gaussian in the plane, and plot their values (a minute).",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a file .png or .svg")
    parser.add_argument("--members", type=int, default=4, help="number of GANs (4)")
    parser.add_argument("--steps", type=int, default=2000, help="steps of the flow and of each generator (2000)")
    parser.add_argument(
        "--further", type=int, default=10_000, help="further steps of the critics, with frozen generators (10000)"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        if options.out.suffix not in (".png", ".svg"):
            raise UserError(f"{options.out} does not end in .png or .svg; change --out")
        long = (1, 10_000_000)
        check_ranges(options, members=(2, 100), steps=long, further=long, seed=(0, 2**32 - 1))
        torch.set_num_threads(1)  # more of them wait for each other on networks as small as these
        toy = train(options.members, options.steps, options.further, options.seed)
        print(style.save(plot(toy), options.out))
    except UserError as error:
        print(f"oodgen: {terminal(error)}", file=sys.stderr)
        return 2
    return 0
