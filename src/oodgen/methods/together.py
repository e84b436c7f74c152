r"""Sequential and stacked computation of one training step of all members of an ensemble, with equal results.

Member m has the loss $\ell_m(\theta_m)$ of its own batch and noise, and members share no weight. So all gradients are
those of $\sum_m \ell_m$, computed in one pass over stacked weights, or member by member. (`torch.vmap` turns
convolutions with stacked weights into grouped ones.)
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from oodgen.data.resident import Batch
from oodgen.methods.method import Method, Terms
from oodgen.noise import Noise

__all__ = ["Stacked", "Step", "sequential"]

Gradients = list[Tensor | None]  # of each parameter that learns, in the model's order


class Step(NamedTuple):
    """The result of a step.

    Arguments:
        losses: The loss of each member, (M,).
        terms: The terms of the losses, each (M,).
        gradients: The gradients of each member.
    """

    losses: Tensor
    terms: Terms
    gradients: list[Gradients]


def sequential(methods: Sequence[Method], batches: Sequence[Batch]) -> Step:
    """One member after the other, with the activations of one at a time in memory.

    Arguments:
        methods: Each member's method, with its model and seed.
        batches: Each member's batch.
    """
    losses, terms, gradients = [], [], []
    for method, batch in zip(methods, batches, strict=True):
        loss, made_of = method.loss(batch, method.noise(batch))
        gradients.append(_gradients(loss, [p for p in method.model.parameters() if p.requires_grad]))
        losses.append(loss.detach())
        terms.append({name: value.detach() for name, value in made_of.items()})
    return Step(torch.stack(losses), {name: torch.stack([t[name] for t in terms]) for name in terms[0]}, gradients)


class Stacked:
    """All members at once: weights and buffers are stacked along a new axis, over which the loss is vectorised.

    The stack is made at each step, so that optimiser, weight averaging and checkpoints use the members' own weights.
    Each member's noise is drawn beforehand as in its own training, in the order recorded from one call of the loss.

    Arguments:
        methods: Each member's method, with its model and seed.
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        self.methods, self.loss = methods, _Loss(methods[0])
        self.constant = self._stack(lambda model: (p for p in model.named_parameters() if not p[1].requires_grad))
        self.moving: list[str] = []  # names of buffers that a step changes, as batch-norm statistics
        self.requests: list[_NoiseRequest] = []  # the noise that the loss draws, in order
        self.shape: torch.Size | None = None  # of the batches for which `requests` was recorded

    def __call__(self, batches: Sequence[Batch]) -> Step:
        batch = Batch.of_members(batches)
        learnt = self._stack(lambda model: (p for p in model.named_parameters() if p[1].requires_grad))
        if batch.x.shape != self.shape:
            self._trace(learnt, batch)
        moving = self._stack(lambda model: ((name, model.get_buffer(name)) for name in self.moving))
        draws = self._draw_noise(batches)
        for value in learnt.values():
            value.requires_grad_()
        losses, terms = self._vectorised({**learnt, **self.constant, **moving}, batch, draws)
        stacked = _gradients(losses.sum(), list(learnt.values()))
        for name, value in moving.items():
            for method, of_member in zip(self.methods, value, strict=True):
                method.model.get_buffer(name).copy_(of_member)
        gradients: list[Gradients] = [[None if g is None else g[m] for g in stacked] for m in range(len(self.methods))]
        return Step(losses.detach(), {name: value.detach() for name, value in terms.items()}, gradients)

    @torch.no_grad()
    def _trace(self, learnt: dict[str, Tensor], batch: Batch) -> None:
        """Call the loss once, on copies of the buffers, to record `moving` and `requests`."""
        recorder = _NoiseRecorder()
        before = self._stack(lambda model: model.named_buffers())
        after = {name: value.clone() for name, value in before.items()}
        self._vectorised({**learnt, **self.constant, **after}, batch, [], recorder)
        self.requests, self.shape = recorder.requests, batch.x.shape
        self.moving = [name for name, value in before.items() if not torch.equal(value, after[name])]
        self.constant |= {name: value for name, value in before.items() if name not in self.moving}

    @torch.no_grad()
    def _stack(self, named: Callable[[nn.Module], Iterable[tuple[str, Tensor]]]) -> dict[str, Tensor]:
        """The named tensors of all members, each stacked to (M, ...)."""
        members = [dict(named(method.model)) for method in self.methods]
        return {name: torch.stack([tensors[name] for tensors in members]) for name in members[0]}

    def _draw_noise(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The noise of `requests` for all members, each (M, *shape)."""
        drawn: list[list[Tensor]] = [[] for _ in self.requests]
        for method, batch in zip(self.methods, batches, strict=True):
            noise = method.noise(batch)
            for draws, (kind, *arguments) in zip(drawn, self.requests, strict=True):
                draws.append(getattr(noise, kind)(*arguments))
        return [torch.stack(draws) for draws in drawn]

    def _vectorised(
        self, state: dict[str, Tensor], batch: Batch, draws: list[Tensor], noise: "_NoiseRecorder | None" = None
    ) -> tuple[Tensor, Terms]:
        def one(state: dict[str, Tensor], batch: Batch, draws: list[Tensor]) -> tuple[Tensor, Terms]:
            recorded = _ReplayedNoise(draws) if noise is None else noise
            named = {f"method.model.{name}": value for name, value in state.items()}
            return functional_call(self.loss, named, (batch, recorded))

        axes = Batch(*(None if part is None or isinstance(part, int) else 0 for part in batch))  # type: ignore[arg-type]
        # random numbers that torch itself draws in the loss, as in dropout, differ between members
        each = torch.vmap(one, in_dims=(0, axes, 0), randomness="different")
        return each(state, batch, draws)


@torch.no_grad()
def _gradients(loss: Tensor, leaves: Sequence[Tensor]) -> Gradients:
    with torch.autocast(loss.device.type, enabled=False):  # autocast is for the forward pass
        return list(torch.autograd.grad(loss, leaves, allow_unused=True))


class _Loss(nn.Module):
    """A method's loss as a module, for `functional_call`."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        return self.method.loss(batch, noise)


class _NoiseRequest(NamedTuple):
    """Arguments of one call of a `Noise`."""

    kind: Literal["uniform", "normal"]
    site: str
    shape: tuple[int, ...]
    device: torch.device


class _NoiseRecorder:
    """Deterministic noise that records its calls."""

    def __init__(self) -> None:
        self.requests: list[_NoiseRequest] = []

    def uniform(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        self.requests.append(_NoiseRequest("uniform", site, tuple(shape), device))
        return torch.full(shape, 0.5, device=device)

    def normal(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        self.requests.append(_NoiseRequest("normal", site, tuple(shape), device))
        return torch.zeros(shape, device=device)


class _ReplayedNoise:
    """Noise drawn before, returned in order."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.draws = deque(draws)

    def uniform(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return self.draws.popleft()

    def normal(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return self.draws.popleft()
