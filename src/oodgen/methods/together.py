r"""Two ways to compute one step of all members of an ensemble: the same numbers, at different speeds.

Member m has the loss $\ell_m(\theta_m)$ of its own batch and noise, and no weight in common with the others. So the
gradients of all are those of $\sum_m \ell_m$, which one pass over stacked weights computes, or one after the other.

"grouped", a convolution with a group for each member, is no third way: it is what `torch.vmap` makes of a convolution
with stacked weights.
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
    """What a step computes.

    Arguments:
        losses: Of each member, (M,).
        terms: What they are made of, each (M,).
        gradients: Of each member.
    """

    losses: Tensor
    terms: Terms
    gradients: list[Gradients]


def sequential(methods: Sequence[Method], batches: Sequence[Batch]) -> Step:
    """Member after member; holds the activations of one at a time.

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
    """All members at once: weights and buffers stacked along a new axis, over which the loss is vectorised.

    The stack is made anew at each step, so the members' own weights stay what is optimised, averaged and saved.
    Each member's noise is drawn outside, as its own training draws it, in the order in which the loss asks for it.

    Arguments:
        methods: Each member's method, with its model and seed.
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        self.methods, self.loss = methods, _Loss(methods[0])
        self.constant = self._stack(lambda model: (p for p in model.named_parameters() if not p[1].requires_grad))
        self.moving: list[str] = []  # buffers that a step changes, as the statistics of a batch norm
        self.asked: list[_Asked] = []  # what the loss asks noise for
        self.shape: torch.Size | None = None  # of the batches for which it does

    def __call__(self, batches: Sequence[Batch]) -> Step:
        batch = Batch.of_members(batches)
        learnt = self._stack(lambda model: (p for p in model.named_parameters() if p[1].requires_grad))
        if batch.x.shape != self.shape:
            self._listen(learnt, batch)
        moving = self._stack(lambda model: ((name, model.get_buffer(name)) for name in self.moving))
        draws = self._draw(batches)
        for value in learnt.values():
            value.requires_grad_()
        losses, terms = self._vectorised({**learnt, **self.constant, **moving}, batch, draws)
        stacked = _gradients(losses.sum(), list(learnt.values()))
        for name, value in moving.items():
            for method, own in zip(self.methods, value, strict=True):
                method.model.get_buffer(name).copy_(own)
        gradients: list[Gradients] = [[None if g is None else g[m] for g in stacked] for m in range(len(self.methods))]
        return Step(losses.detach(), {name: value.detach() for name, value in terms.items()}, gradients)

    @torch.no_grad()
    def _listen(self, learnt: dict[str, Tensor], batch: Batch) -> None:
        """Find out on copies of the buffers which of them move, and what the loss asks noise for."""
        heard = _Listening()
        before = self._stack(lambda model: model.named_buffers())
        after = {name: value.clone() for name, value in before.items()}
        self._vectorised({**learnt, **self.constant, **after}, batch, [], heard)
        self.asked, self.shape = heard.asked, batch.x.shape
        self.moving = [name for name, value in before.items() if not torch.equal(value, after[name])]
        self.constant |= {name: value for name, value in before.items() if name not in self.moving}

    @torch.no_grad()
    def _stack(self, named: Callable[[nn.Module], Iterable[tuple[str, Tensor]]]) -> dict[str, Tensor]:
        """The tensors of that name of all members, each (M, ...)."""
        each = [dict(named(method.model)) for method in self.methods]
        return {name: torch.stack([own[name] for own in each]) for name in each[0]}

    def _draw(self, batches: Sequence[Batch]) -> list[Tensor]:
        """Each member's noise for what the loss asks, (M, *shape) each."""
        drawn: list[list[Tensor]] = [[] for _ in self.asked]
        for method, batch in zip(self.methods, batches, strict=True):
            noise = method.noise(batch)
            for own, (kind, *where) in zip(drawn, self.asked, strict=True):
                own.append(getattr(noise, kind)(*where))
        return [torch.stack(own) for own in drawn]

    def _vectorised(
        self, state: dict[str, Tensor], batch: Batch, draws: list[Tensor], noise: "_Listening | None" = None
    ) -> tuple[Tensor, Terms]:
        def one(state: dict[str, Tensor], batch: Batch, draws: list[Tensor]) -> tuple[Tensor, Terms]:
            given = _Given(draws) if noise is None else noise
            named = {f"method.model.{name}": value for name, value in state.items()}
            return functional_call(self.loss, named, (batch, given))

        axes = Batch(*(None if part is None or isinstance(part, int) else 0 for part in batch))  # type: ignore[arg-type]
        # draws of torch's own inside a loss, as of dropout, differ from member to member
        each = torch.vmap(one, in_dims=(0, axes, 0), randomness="different")
        return each(state, batch, draws)


@torch.no_grad()
def _gradients(loss: Tensor, leaves: Sequence[Tensor]) -> Gradients:
    with torch.autocast(loss.device.type, enabled=False):  # of the forward pass alone
        return list(torch.autograd.grad(loss, leaves, allow_unused=True))


class _Loss(nn.Module):
    """A method's loss as a module, whose weights `functional_call` can replace."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch, noise: Noise) -> tuple[Tensor, Terms]:
        return self.method.loss(batch, noise)


class _Asked(NamedTuple):
    """One question for noise."""

    kind: Literal["uniform", "normal"]
    site: str
    shape: tuple[int, ...]
    device: torch.device


class _Listening:
    """Noise that takes down what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[_Asked] = []

    def uniform(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        self.asked.append(_Asked("uniform", site, tuple(shape), device))
        return torch.full(shape, 0.5, device=device)

    def normal(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        self.asked.append(_Asked("normal", site, tuple(shape), device))
        return torch.zeros(shape, device=device)


class _Given:
    """Noise that was drawn before, handed out in order."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.draws = deque(draws)

    def uniform(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return self.draws.popleft()

    def normal(self, site: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return self.draws.popleft()
