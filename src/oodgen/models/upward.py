"""What a level knows of its layers, and the way up through layers that are inferred one from another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from oodgen.models.gaussian import draw, first, split
from oodgen.noise import Noise

__all__ = ["Path", "upward"]


@dataclass
class Path:
    """What a level knows of each layer i, all (S, B, ...).

    Arguments:
        z: The latent variables; 0 is the image.
        h: Features of the deterministic path upward, where there is one.
        q: $q(z_i | \\cdot)$ of the layers that the level infers.
        p: $p(z_i | z_{>i})$ of the same layers, found on the way down.
    """

    z: dict[int, Tensor]
    h: dict[int, Tensor] = field(default_factory=dict)
    q: dict[int, Normal] = field(default_factory=dict)
    p: dict[int, Normal] = field(default_factory=dict)

    def fork(self, samples: int) -> "Path":
        """So many copies of a path of one sample."""
        z, h = ({i: x.expand(samples, *x.shape[1:]) for i, x in found.items()} for found in (self.z, self.h))
        return Path(z, h)

    def above(self, k: int) -> "Path":
        """A copy for level k, which infers the layers above k only."""
        return Path(dict(self.z), dict(self.h), {i: q for i, q in self.q.items() if i > k})

    def first(self, samples: int) -> "Path":
        """A copy of the first samples, without features."""
        q, p = ({i: first(x, samples) for i, x in found.items()} for found in (self.q, self.p))
        return Path({i: z[:samples] for i, z in self.z.items()}, q=q, p=p)

    @property
    def log_ratios(self) -> list[Tensor]:
        """$\\log q - \\log p$ of each inferred layer, lowest first, elementwise."""
        return [self.q[i].log_prob(self.z[i]) - self.p[i].log_prob(self.z[i]) for i in sorted(self.q)]

    def kls(self, samples: int, batch: int) -> Tensor:
        """The KL of each inferred layer from its prior, given the layers above, in closed form: (layers, S, B)."""
        kls = [kl_divergence(self.q[i], self.p[i]).flatten(2).sum(2) for i in sorted(self.q)]
        return torch.stack([kl.expand(samples, batch) for kl in kls])


def upward(
    y: Tensor,
    noise: Noise,
    ks: Sequence[int],
    samples: Sequence[int],
    up: str,
    depth: int,
    site: str,
    infer: Callable[[int, Sequence[Path]], Normal],
) -> list[Path]:
    """The path of each level k, on which z_1..z_k, posterior means or samples, only lead to z_{k+1}..z_L ~ q.

    Levels share the path of posterior means, which is walked once, until each leaves it by its first sample. Where
    samples lead upward, levels of equally many have the same ones and share the whole way.

    Arguments:
        y: Observed images (B, C, H, W).
        noise, ks, samples, up: See `oodgen.models.layered.Layered.bounds`.
        depth: L.
        site: The noise of layer i is called by this and i.
        infer: From i and paths that know all layers below it to q(z_i | .) of all of them, joined.
    """
    if up == "sample":
        # the way of level 0, of samples from the first layer on
        sizes = list(dict.fromkeys(samples))
        walks = dict(zip(sizes, upward(y, noise, [0] * len(sizes), sizes, "mean", depth, site, infer), strict=True))
        return [walks[s].above(k) for k, s in zip(ks, samples, strict=True)]
    x = y.unsqueeze(0)
    mean = Path({0: x})
    paths = [Path({0: x.expand(s, *y.shape)}) for s in samples]
    # the layer of a level's first sample; where k = L the way up leads nowhere
    start = [k + 1 for k in ks]
    for i in range(1, depth + 1):
        own = [j for j, first in enumerate(start) if first < i]
        leaving = [j for j, first in enumerate(start) if first == i]
        shared = any(i <= first <= depth for first in start)
        walked = [mean] * shared + [paths[j] for j in own]
        if not walked:
            break
        q = split(infer(i, walked), [len(path.z[0]) for path in walked])
        for j in leaving:
            paths[j] = mean.fork(samples[j])
        for j, q_j in [*((j, q[0]) for j in leaving), *zip(own, q[shared:], strict=True)]:
            paths[j].z[i] = draw(q_j, noise, f"{site}{i}", (samples[j], *q_j.mean.shape[1:]))
            paths[j].q[i] = q_j
        if shared:
            mean.z[i] = q[0].mean
    return paths
