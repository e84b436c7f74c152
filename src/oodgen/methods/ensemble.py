r"""Several models of one architecture, trained together or assembled from finished trainings."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from oodgen.data.resident import Batch
from oodgen.errors import Diverged, UserError
from oodgen.methods.method import Method
from oodgen.methods.together import Stacked, Step, sequential
from oodgen.models.ensemble import Ensemble
from oodgen.noise import member_seed

__all__ = ["GenerativeEnsemble"]

log = logging.getLogger(__name__)

WAYS = ("auto", "sequential", "stacked", "apart")


class GenerativeEnsemble(Method):
    r"""Train M members on the whole training set, each with its own initialisation, order of the data and noise.

    Member i of an ensemble of seed s is the model that its method trains alone with `member_seed(s, i)`: the members
    share no weight, and clipping, averaging and the guard against what is not finite act on each by itself. There is no
    bootstrap.

    Arguments:
        member: From a seed to a method of the member's, with a model of its own.
        size: M.
        seed: s.
        how: "sequential", member after member; "stacked", all at once by `torch.vmap`; "auto": sequential on a CPU,
            where `python -m oodgen.bench --only ensemble` found stacking 0.8 times as fast at batch 128 and 1.1 times
            at 32, and stacked on a GPU, whose launches the members then share (not measured), unless that fails.
            No choice is timed at run time, or two runs of one command could differ. The record says which it was.
            "apart": each member is a training of its own, the one that its method's command for a single model makes,
            found if that has been given already; then they are assembled. "auto" is that where the member's method
            takes optimiser steps of its own, as where two networks take turns. Curves, and what a logger gets, are
            then those of each member's own command; checkpoint=best is each one's own best, not one step of all;
            retrain=true starts over the members that diverged, or all if none did.
        drop: Go on without a member that diverges, as long as two remain; otherwise it ends the training.
        inputs: Names of finished trainings of single models, folders in runs/train, to assemble instead of training.

    Raises:
        UserError: `how` is none of these, or not to be had with such a member; `inputs` are not M different ones; the
            data do not serve M members; `drop` where the members do not train together.
        Diverged: a term of a member's loss, a gradient or a weight is not finite; names the member.

    Source: Choi, Jang, Alemi 2019, section 2 (papers/generative_ensembles, section 1).
    """

    model: Ensemble  # type: ignore[assignment]
    needs = Ensemble

    def __init__(
        self,
        member: Callable[..., Method],
        size: int = 5,
        seed: int = 0,
        how: Literal["auto", "sequential", "stacked", "apart"] = "auto",
        drop: bool = False,
        inputs: Sequence[str] | None = None,
    ) -> None:
        if how not in WAYS:
            raise UserError(f"method.how={how!r} is not one of: {', '.join(WAYS)}")
        if inputs is not None and (len(inputs) != size or len(set(inputs)) != size):
            raise UserError(f"method.inputs names {len(set(inputs))} trainings; set method.size to as many")
        methods = []
        for own in (member_seed(seed, i) for i in range(1, size + 1)):
            torch.manual_seed(own)
            methods.append(member(seed=own))
        super().__init__(Ensemble([method.model for method in methods]), methods[0].optimizer, seed)  # type: ignore[arg-type]
        turns = not methods[0].automatic_optimization
        if turns and how in ("sequential", "stacked"):
            raise UserError(
                f"{type(methods[0]).__name__} as configured takes optimiser steps of its own, in which members do not "
                "join; method.how=apart trains each by itself"
            )
        self.apart = inputs is None and (how == "apart" or turns)
        if drop and (self.apart or inputs is not None):
            raise UserError("method.drop lets go of a member of a training that all share; here each has its own")
        self.whole = methods[0].whole
        self.methods = tuple(methods)  # no ModuleList: the weights belong to the ensemble
        self.how, self.drop = how, drop
        self.used: str | None = None  # the way in which steps were computed
        self.dropped: dict[int, str] = {}  # member, 1 the first -> why
        self._way: Callable[[Sequence[Batch]], Step] | None = None
        self._gradients: dict[int, list[Tensor | None]] = {}

    def uses(self) -> frozenset[str]:
        return self.methods[0].uses()

    def setup(self, stage: str) -> None:
        for method in self.methods:
            method.trainer = self.trainer  # which counts the epochs, and knows the data

    def on_fit_start(self) -> None:
        for method in self.methods:
            method.on_fit_start()

    def initialise(self, batch: Batch) -> None:
        if batch.index.ndim != 2 or len(batch.index) != len(self.methods):
            raise UserError(f"the data serve no {len(self.methods)} members; set data.members=${{method.size}}")
        for method, own in zip(self.methods, batch.members(), strict=True):
            method.initialise(own)

    def course(self, optimizer: Optimizer) -> Any:
        return self.methods[0].course(optimizer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        there = self.active_members()
        losses, terms, gradients = self._step([own for i, own in enumerate(batch.members(), 1) if i in there])
        self._gradients = dict(zip(there, gradients, strict=True))
        if self.watched(batch.step) and not torch.stack([losses, *terms.values()]).isfinite().all():
            for place, i in enumerate(there):
                own = {name: term[place] for name, term in terms.items()}
                self._guard(i, partial(self.methods[i - 1].check_terms, batch, own))
        numbers = {
            f"{self.whole}_{i}": terms[self.whole][place] for place, i in enumerate(there) if i not in self.dropped
        }
        if len(numbers) < len(there):
            kept = [place for place, i in enumerate(there) if i not in self.dropped]
            losses, terms = losses[kept], {name: term[kept] for name, term in terms.items()}
        self.report(batch, {name: term.mean() for name, term in terms.items()} | numbers)
        return losses.mean()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Hand each member the gradients that its step has computed."""
        share = 1 / self.trainer.accumulate_grad_batches
        for i, gradients in self._gradients.items():
            learnt = (p for p in self.model.members[i - 1].parameters() if p.requires_grad)
            for parameter, gradient in zip(learnt, gradients, strict=True):
                if gradient is not None and i not in self.dropped:
                    scaled = gradient if share == 1 else share * gradient
                    parameter.grad = scaled if parameter.grad is None else parameter.grad + scaled
        self._gradients = {}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if not gradient_clip_val:
            return
        for i in self.active_members():
            parameters = self.model.members[i - 1].parameters()
            if gradient_clip_algorithm == "value":
                torch.nn.utils.clip_grad_value_(parameters, gradient_clip_val)
            else:
                torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def check_gradients(self, step: int) -> None:
        for i in self.active_members():
            self._guard(i, partial(self.methods[i - 1].check_gradients, step))

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The mean over the members of each number, and `whole` of each member."""
        found = {i: self.methods[i - 1].validate(batch) for i in self.active_members()}
        names = next(iter(found.values()))
        mean = {name: torch.stack([numbers[name] for numbers in found.values()]).mean() for name in names}
        whole = f"val/{self.whole}"
        return mean | {f"{whole}_{i}": numbers[whole] for i, numbers in found.items() if whole in numbers}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for i in self.active_members():
            prefix = f"model.members.{i - 1}."
            own = {n.removeprefix(prefix): v for n, v in checkpoint["state_dict"].items() if n.startswith(prefix)}
            self._guard(i, partial(self.methods[i - 1].on_save_checkpoint, {"state_dict": own}))
        # past the callback that averages weights, to which this is a weight
        alive = torch.tensor([i not in self.dropped for i in range(1, len(self.methods) + 1)])
        for name in {"state_dict", "current_model_state"} & checkpoint.keys():
            checkpoint[name]["model.alive"] = alive
        checkpoint["ensemble"] = {"dropped": self.dropped, "used": self.used}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.dropped, self.used = dict(checkpoint["ensemble"]["dropped"]), checkpoint["ensemble"]["used"]

    def about(self) -> dict[str, Any]:
        lost = [f"member {i} was dropped: {why}" for i, why in self.dropped.items()]
        return {"how": self.used, "members": len(self.active_members()), "warnings": lost}

    def active_members(self) -> list[int]:
        """The members that are still in training, 1 the first."""
        return [i for i in range(1, len(self.methods) + 1) if i not in self.dropped]

    def _step(self, batches: Sequence[Batch]) -> Step:
        """A step of the members still there, in the way chosen at the first one."""
        if self._way is not None:
            return self._way(batches)
        methods = [self.methods[i - 1] for i in self.active_members()]
        found, way = None, self.how
        if way == "auto":
            way = "stacked" if self.device.type == "cuda" else "sequential"
        if way == "stacked":
            self._way = Stacked(methods)
            try:
                found = self._way(batches)
            except RuntimeError as error:  # of vmap, or the memory does not hold the activations of all
                if self.how == "stacked":
                    raise
                log.warning("the members cannot be stacked (%s), so they train in turn", str(error).splitlines()[0])
                way = "sequential"
        if way == "sequential":
            self._way = lambda batches: sequential(methods, batches)
        if self.used != way:
            log.info("%d members train together: %s", len(methods), way)
        self.used = way
        assert self._way is not None
        return found or self._way(batches)

    def _guard(self, member: int, check: Callable[[], None]) -> None:
        """Ask whether a member is sound; if it is not, drop it or end the training."""
        try:
            check()
        except Diverged as error:
            if not self.drop or len(self.active_members()) <= 2:
                mend = "" if self.drop else "; method.drop=true goes on without it"
                raise Diverged(f"member {member}: {error}{mend}") from error
            log.warning("dropped member %d: %s", member, error)
            self.dropped[member] = str(error)
            self.model.alive[member - 1] = False
            self._way = None  # made anew of the others
            self.model.members[member - 1].zero_grad()  # an optimiser leaves it as it is
