"""The bottom-up inference pass that the bounds L^{>k} of several levels k share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from oodgen.models.gaussian import draw, first_samples, split_samples
from oodgen.noise import Noise

__all__ = ["LevelState", "bottom_up_pass"]


@dataclass
class LevelState:
    """Latent variables and distributions of the layers i during the computation of one L^{>k}, all (S, B, ...).

    Arguments:
        z: The latent variables; 0 is the image.
        h: Features of the deterministic bottom-up network, where the model has one.
        q: $q(z_i | \\cdot)$ of the layers i > k.
        p: $p(z_i | z_{>i})$ of the same layers, set by the top-down pass.
    """

    z: dict[int, Tensor]
    h: dict[int, Tensor] = field(default_factory=dict)
    q: dict[int, Normal] = field(default_factory=dict)
    p: dict[int, Normal] = field(default_factory=dict)

    def expanded(self, samples: int) -> "LevelState":
        """z and h of a state of one sample, expanded to S = `samples`; without q and p."""
        z, h = ({i: x.expand(samples, *x.shape[1:]) for i, x in values.items()} for values in (self.z, self.h))
        return LevelState(z, h)

    def for_level(self, k: int) -> "LevelState":
        """A shallow copy that keeps q of the layers above k only."""
        return LevelState(dict(self.z), dict(self.h), {i: q for i, q in self.q.items() if i > k})

    def truncated(self, samples: int) -> "LevelState":
        """A copy of the first `samples` samples, without h."""
        q, p = ({i: first_samples(x, samples) for i, x in values.items()} for values in (self.q, self.p))
        return LevelState({i: z[:samples] for i, z in self.z.items()}, q=q, p=p)

    @property
    def log_ratios(self) -> list[Tensor]:
        """$\\log q - \\log p$ of each layer in q, lowest first, elementwise."""
        return [self.q[i].log_prob(self.z[i]) - self.p[i].log_prob(self.z[i]) for i in sorted(self.q)]

    def kls(self, samples: int, batch: int) -> Tensor:
        """The closed-form KL(q || p) of each layer in q, given the layers above, expanded to (layers, S, B); nats."""
        kls = [kl_divergence(self.q[i], self.p[i]).flatten(2).sum(2) for i in sorted(self.q)]
        return torch.stack([kl.expand(samples, batch) for kl in kls])


def bottom_up_pass(
    y: Tensor,
    noise: Noise,
    ks: Sequence[int],
    samples: Sequence[int],
    up: str,
    depth: int,
    site: str,
    infer: Callable[[int, Sequence[LevelState]], Normal],
) -> list[LevelState]:
    """Draw z_{k+1}, ..., z_L ~ q bottom-up for each level k; z_1, ..., z_k are posterior means or samples.

    With up="mean" all levels share one pass of posterior means until the first sampled layer k + 1 of each. With
    up="sample" levels with equal numbers of samples share all their samples.

    Arguments:
        y: Observed images (B, C, H, W).
        noise, ks, samples, up: See `oodgen.models.layered.HierarchicalVAE.bounds`.
        depth: L.
        site: Prefix of the noise site; layer i draws at f"{site}{i}".
        infer: `infer(i, states)` gives q(z_i | .) of all states, concatenated along the sample axis; each state holds
            the layers below i.
    """
    if up == "sample":
        # the pass of level 0, in which every layer is sampled
        sizes = list(dict.fromkeys(samples))
        sampled = bottom_up_pass(y, noise, [0] * len(sizes), sizes, "mean", depth, site, infer)
        by_size = dict(zip(sizes, sampled, strict=True))
        return [by_size[s].for_level(k) for k, s in zip(ks, samples, strict=True)]
    x = y.unsqueeze(0)
    mean = LevelState({0: x})
    states = [LevelState({0: x.expand(s, *y.shape)}) for s in samples]
    # the first sampled layer of each level; k = L samples none
    start = [k + 1 for k in ks]
    for i in range(1, depth + 1):
        sampling = [j for j, layer in enumerate(start) if layer < i]
        starting = [j for j, layer in enumerate(start) if layer == i]
        shared = any(i <= layer <= depth for layer in start)
        inputs = [mean] * shared + [states[j] for j in sampling]
        if not inputs:
            break
        q = split_samples(infer(i, inputs), [len(state.z[0]) for state in inputs])
        for j in starting:
            states[j] = mean.expanded(samples[j])
        for j, q_j in [*((j, q[0]) for j in starting), *zip(sampling, q[shared:], strict=True)]:
            states[j].z[i] = draw(q_j, noise, f"{site}{i}", (samples[j], *q_j.mean.shape[1:]))
            states[j].q[i] = q_j
        if shared:
            mean.z[i] = q[0].mean
    return states
