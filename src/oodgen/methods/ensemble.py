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
from oodgen.options import Count, FolderName, Seed

__all__ = ["GenerativeEnsemble"]

log = logging.getLogger(__name__)


class GenerativeEnsemble(Method):
    r"""Train M members on the same training set, each with its own initialisation, data order and noise.

    Member i of an ensemble of seed s equals the single model trained with `member_seed(s, i)`: members share no weight,
    and gradient clipping, weight averaging and the checks for non-finite values act on each separately. There is no
    bootstrapping of the training set.

    Arguments:
        member: From a seed to the method of a member, with its own model.
        size: M.
        seed: s.
        how: How a step of all members is computed; the record states which was used. "sequential": one member after
            the other. "stacked": all at once by `torch.vmap`. "apart": no common steps; each member is a separate
            training, identical to that of a single model (and reused if it exists), with its own curves and its own
            best checkpoint; the finished trainings are assembled, and retrain=true repeats the members that diverged,
            or all if none did. "auto": apart if the member's method has several optimisers; else sequential on a CPU,
            where stacking is 0.8 times as fast at batch 128 and 1.1 times at 32 (`python -m oodgen.bench --only
            ensemble`), and stacked on a GPU, or sequential if that fails. Nothing is timed at run time, so that a
            command is reproducible.
        drop: Continue without a member that diverges, as long as two remain; otherwise it ends the training.
        inputs: Names of finished trainings of single models (folders in runs/train) to assemble instead of training.

    Raises:
        UserError: `how` does not fit the member's method; `inputs` are not M different ones; the data are
            not those of M members; `drop` where the members do not train together.
        Diverged: a term of a member's loss, a gradient or a weight is not finite; the message names the member.

    Source: Choi, Jang, Alemi 2019, section 2 (papers/generative_ensembles, section 1).
    """

    model: Ensemble  # type: ignore[assignment]
    needs = Ensemble

    def __init__(
        self,
        member: Callable[..., Method],
        size: Count = 5,
        seed: Seed = 0,
        how: Literal["auto", "sequential", "stacked", "apart"] = "auto",
        drop: bool = False,
        inputs: Sequence[FolderName] | None = None,
    ) -> None:
        if inputs is not None and (len(inputs) != size or len(set(inputs)) != size):
            raise UserError(
                f"method.inputs names {len(set(inputs))} different trainings, but method.size={size}; they must be "
                "equal"
            )
        methods = []
        for i in range(1, size + 1):
            torch.manual_seed(member_seed(seed, i))
            methods.append(member(seed=member_seed(seed, i)))
        super().__init__(Ensemble([method.model for method in methods]), methods[0].optimizer, seed)  # type: ignore[arg-type]
        turns = not methods[0].automatic_optimization
        if turns and how in ("sequential", "stacked"):
            raise UserError(
                f"{type(methods[0]).__name__} as configured has several optimisers, so members cannot share a step; "
                "use method.how=apart"
            )
        self.apart = inputs is None and (how == "apart" or turns)
        if drop and (self.apart or inputs is not None):
            raise UserError(
                "method.drop needs members that train together; here each is a separate training, so remove it"
            )
        self.monitor = methods[0].monitor
        self.methods = tuple(methods)  # no ModuleList: the weights belong to the ensemble
        self.how, self.drop = how, drop
        self.used: str | None = None  # `how` after resolving "auto"
        self.dropped: dict[int, str] = {}  # member, 1 the first -> why
        self._compute_step: Callable[[Sequence[Batch]], Step] | None = None
        self._gradients: dict[int, list[Tensor | None]] = {}

    def extra_streams(self) -> frozenset[str]:
        return self.methods[0].extra_streams()

    def setup(self, stage: str) -> None:
        for method in self.methods:
            method.trainer = self.trainer  # which counts the epochs, and knows the data

    def on_fit_start(self) -> None:
        for method in self.methods:
            method.on_fit_start()

    def initialise(self, batch: Batch) -> None:
        if batch.index.ndim != 2 or len(batch.index) != len(self.methods):
            raise UserError(
                f"the data have no batches for {len(self.methods)} members; set data.members=${{method.size}}"
            )
        for method, part in zip(self.methods, batch.members(), strict=True):
            method.initialise(part)

    def with_scheduler(self, optimizer: Optimizer) -> Any:
        return self.methods[0].with_scheduler(optimizer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        active = self.active_members()
        losses, terms, gradients = self._step([part for i, part in enumerate(batch.members(), 1) if i in active])
        self._gradients = dict(zip(active, gradients, strict=True))
        if self.checks_step(batch.step) and not torch.stack([losses, *terms.values()]).isfinite().all():
            for place, i in enumerate(active):
                of_member = {name: term[place] for name, term in terms.items()}
                self._guard(i, partial(self.methods[i - 1].check_terms, batch, of_member))
        numbers = {
            f"{self.monitor}_{i}": terms[self.monitor][place] for place, i in enumerate(active) if i not in self.dropped
        }
        if len(numbers) < len(active):
            kept = [place for place, i in enumerate(active) if i not in self.dropped]
            losses, terms = losses[kept], {name: term[kept] for name, term in terms.items()}
        self.log_terms(batch, {name: term.mean() for name, term in terms.items()} | numbers)
        return losses.mean()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Assign to the parameters of each member the gradients that the step has computed."""
        scale = 1 / self.trainer.accumulate_grad_batches
        for i, gradients in self._gradients.items():
            learnt = (p for p in self.model.members[i - 1].parameters() if p.requires_grad)
            for parameter, gradient in zip(learnt, gradients, strict=True):
                if gradient is not None and i not in self.dropped:
                    scaled = gradient if scale == 1 else scale * gradient
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
        """The mean over members of each metric, and `monitor` of each member."""
        found = {i: self.methods[i - 1].validate(batch) for i in self.active_members()}
        names = next(iter(found.values()))
        mean = {name: torch.stack([numbers[name] for numbers in found.values()]).mean() for name in names}
        monitor = f"val/{self.monitor}"
        return mean | {f"{monitor}_{i}": numbers[monitor] for i, numbers in found.items() if monitor in numbers}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for i in self.active_members():
            prefix = f"model.members.{i - 1}."
            state = {n.removeprefix(prefix): v for n, v in checkpoint["state_dict"].items() if n.startswith(prefix)}
            self._guard(i, partial(self.methods[i - 1].on_save_checkpoint, {"state_dict": state}))
        # set here, since the weight-averaging callback would average the buffer
        alive = torch.tensor([i not in self.dropped for i in range(1, len(self.methods) + 1)])
        for name in {"state_dict", "current_model_state"} & checkpoint.keys():
            checkpoint[name]["model.alive"] = alive
        checkpoint["ensemble"] = {"dropped": self.dropped, "used": self.used}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.dropped, self.used = dict(checkpoint["ensemble"]["dropped"]), checkpoint["ensemble"]["used"]

    def training_summary(self) -> dict[str, Any]:
        lost = [f"member {i} was dropped: {why}" for i, why in self.dropped.items()]
        return {"how": self.used, "members": len(self.active_members()), "warnings": lost}

    def active_members(self) -> list[int]:
        """The numbers, counted from 1, of the members that were not dropped."""
        return [i for i in range(1, len(self.methods) + 1) if i not in self.dropped]

    def _step(self, batches: Sequence[Batch]) -> Step:
        """A step of the active members; the first call resolves `how`."""
        if self._compute_step is not None:
            return self._compute_step(batches)
        methods = [self.methods[i - 1] for i in self.active_members()]
        found, way = None, self.how
        if way == "auto":
            way = "stacked" if self.device.type == "cuda" else "sequential"
        if way == "stacked":
            self._compute_step = Stacked(methods)
            try:
                found = self._compute_step(batches)
            except RuntimeError as error:  # of vmap, or the memory does not hold the activations of all
                if self.how == "stacked":
                    raise
                log.warning("members cannot be stacked (%s); training them sequentially", str(error).splitlines()[0])
                way = "sequential"
        if way == "sequential":
            self._compute_step = lambda batches: sequential(methods, batches)
        if self.used != way:
            log.info("training %d members together: %s", len(methods), way)
        self.used = way
        assert self._compute_step is not None
        return found or self._compute_step(batches)

    def _guard(self, member: int, check: Callable[[], None]) -> None:
        """Run a check of a member; if it raises Diverged, drop the member or end the training."""
        try:
            check()
        except Diverged as error:
            if not self.drop or len(self.active_members()) <= 2:
                advice = "" if self.drop else "; method.drop=true continues without it"
                raise Diverged(f"member {member}: {error}{advice}") from error
            log.warning("dropped member %d: %s", member, error)
            self.dropped[member] = str(error)
            self.model.alive[member - 1] = False
            self._compute_step = None  # resolved anew for the others
            self.model.members[member - 1].zero_grad()  # parameters without gradients are not updated
