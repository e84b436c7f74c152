"""The LightningDataModule of an experiment: an inlier set, out sets, and further training streams."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytorch_lightning as pl
import torch

from oodgen.data.adversarial import Attack
from oodgen.data.catalog import Dataset, Transform, load
from oodgen.data.preprocess import TestSet, preprocess
from oodgen.data.resident import Examples, SequentialLoader, TrainLoader
from oodgen.data.rows import Scaling, fit_scaling
from oodgen.errors import UserError
from oodgen.options import Count, Fraction, NonNegative, Probability, Seed

__all__ = ["OODDataModule"]


class OODDataModule(pl.LightningDataModule):
    """Splits and loads the sets of an experiment.

    The inlier's official train split is divided into train, validation (for checkpoints, levels and fitted scores) and
    calibration (for p-values and thresholds only), in the same way for every training seed. Test splits are for
    reporting only.

    Arguments:
        inlier: The in-distribution set.
        out: Test sets by name, transformations of the inlier's test set, or attacks on the model.
        auxiliary: Further training sets by name, each a separate stream.
        negative: A training set of negative examples.
        root: The data root.
        batch_size: Examples in a training batch of each stream.
        validation, calibration: Fractions of the train split.
        grey, size: Preprocessing of every set of images: mean over the channels, and (height, width) resized to.
        scale: Scaling of rows, fitted on the training examples and applied to every set: "minmax", "standard", or
            "minmax_leaky", fitted on the test sets too; see `oodgen.data.rows`. None for no scaling.
        mutation: Mutation rate of the inliers' pixels in training batches (not in validation or test), for background
            models; one number, or one for each of `members`. See `oodgen.data.resident.mutate`.
        limit: Largest number of examples of each test set, a seeded choice; None for all.
        missing: Treatment of a missing out set: "error" or "skip" (named in the record). A damaged one is an error.
        resident: Size in bytes of the largest set to keep on the device.
        seed: Seed of the training batches.
        members: Number of members of an ensemble, each with its own batches; None for a single model.
        smoke: A few random examples of the right shapes instead of data.

    Raises:
        UserError: a set is missing, broken or of another shape than the inlier, or test rows are among the training
            rows of another stream.
    """

    def __init__(
        self,
        inlier: Dataset,
        out: Mapping[str, Dataset | Transform | Attack],
        auxiliary: Mapping[str, Dataset] | None = None,
        negative: Dataset | None = None,
        root: str | Path = "data",
        batch_size: Count = 128,
        validation: Fraction = 0.05,
        calibration: Fraction = 0.05,
        grey: bool = False,
        size: tuple[Count, Count] | None = None,
        scale: Literal["minmax", "standard", "minmax_leaky"] | None = None,
        limit: Count | None = None,
        missing: Literal["error", "skip"] = "error",
        resident: NonNegative = 8e9,
        seed: Seed = 0,
        smoke: bool = False,
        members: Count | None = None,
        mutation: Probability | Sequence[Probability] | None = None,
    ) -> None:
        super().__init__()
        if scale is not None and len(inlier.shape) != 1:
            raise UserError(f"data.scale={scale!r} scales rows, not images")
        self.mutation = _rates(mutation, members or 1)
        if any(self.mutation) and len(inlier.shape) != 3:
            raise UserError(f"data.mutation replaces pixels of images, but {inlier.name} has rows; remove it")
        _check_trained({"inlier": inlier, **{f"auxiliary.{key}": part for key, part in (auxiliary or {}).items()}})
        _check_trained({"inlier": inlier, **({} if negative is None else {"negative": negative})})
        if inlier.name in out:
            raise UserError(f"data.out.{inlier.name} is the inlier set itself; remove it with ~data.out.{inlier.name}")
        if validation + calibration >= 1:
            raise UserError("data.validation and data.calibration leave nothing to train on; give smaller fractions")
        self.inlier, self.negative = inlier, negative
        self.attacks = {name: part for name, part in out.items() if isinstance(part, Attack)}
        if self.attacks and len(inlier.shape) != 3:
            raise UserError(f"data.out.{next(iter(self.attacks))} needs images, but {inlier.name} has rows")
        self.out = {name: part for name, part in out.items() if not isinstance(part, Attack)}
        self.auxiliary = dict(auxiliary or {})
        self.root, self.batch_size, self.seed, self.members = Path(root), batch_size, seed, members
        self.fractions = (validation, calibration)
        self.grey, self.size = grey, None if size is None else (int(size[0]), int(size[1]))
        self.scale = scale
        self.scaling: Scaling | None = None  # fitted by `setup`
        self.limit, self.missing, self.resident, self.smoke = limit, missing, int(resident), smoke
        self.skipped: dict[str, str] = {}
        self.train_x: np.ndarray | None = None  # the official train split, of which `train_rows` are trained on

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example after preprocessing."""
        if len(self.inlier.shape) == 1:
            return self.inlier.shape
        channels, *size = self.inlier.shape
        return (1 if self.grey else channels, *(self.size or size))

    def setup(self, stage: str | None = None) -> None:
        """Load and divide the training sets; a second call does nothing."""
        if self.train_x is not None:
            return
        split = self._load(self.inlier, "train")
        order = np.random.default_rng(0).permutation(len(split.x))
        counts = [max(1, round(fraction * len(order))) for fraction in self.fractions]
        if len(order) <= sum(counts):
            raise UserError(
                f"{self.inlier.name} has {len(order)} training examples, too few for validation and calibration"
            )
        held = {
            name: np.sort(part)
            for name, part in zip(("validation", "calibration"), np.split(order, np.cumsum(counts))[:2], strict=True)
        }
        rest = np.sort(order[sum(counts) :])
        if len(rest) < self.batch_size:
            raise UserError(
                f"{self.inlier.name} has {len(rest)} training examples, fewer than one batch; "
                f"set data.batch_size={len(rest)}"
            )
        streams = [self._load(dataset, "train") for dataset in self.auxiliary.values()]
        negatives = None if self.negative is None else self._load(self.negative, "train")
        tests = list(self._tests().values()) if self.scale == "minmax_leaky" else []
        if self.scale is not None:
            further = [*streams, *([] if negatives is None else [negatives]), *tests]
            seen = [split.x, *(part.x for part in further)] if tests else [split.x[rest]]
            self.scaling = fit_scaling(self.scale, np.concatenate(seen))
            split, streams = self._scaled(split), list(map(self._scaled, streams))
            negatives = None if negatives is None else self._scaled(negatives)
        self.train_x, self.train_rows = split.x, rest
        labels = None if split.y is None else np.asarray(split.y).astype(np.int64)
        self.labels = None if labels is None else torch.as_tensor(labels[rest])
        self.held_out = {
            name: TestSet(
                split.x[part],
                self.inlier.name,
                f"{name} part of train",
                split.sha256,
                None if labels is None else labels[part],
            )
            for name, part in held.items()
        }
        self.streams, self.negatives = streams, negatives
        # of all sets that training depends on
        parts = (split, *self.streams, self.negatives, *tests)
        self.sha256 = "+".join(part.sha256 for part in parts if part is not None)

    def test_sets(self) -> dict[str, TestSet]:
        """Every set to be scored except `attacks`, the inlier's test split first."""
        if len(self.inlier.shape) == 1:
            self.setup()  # for the scaling, and for the training rows
        sets = {name: self._limited(test) for name, test in self._tests().items()}
        inlier = sets[self.inlier.name]
        for name, dataset in self.out.items():
            if isinstance(dataset, Transform):
                x = dataset.apply(inlier.x, 0)
                sets[name] = TestSet(x, name, f"made from {self.inlier.name} test", inlier.sha256)
        if len(self.inlier.shape) == 1:
            self._check_unseen(sets)
        return {name: sets[name] for name in (self.inlier.name, *self.out) if name in sets}

    def train_dataloader(self) -> TrainLoader:
        self.setup()
        assert self.train_x is not None
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        auxiliary = [Examples(stream.x, device, self.resident) for stream in self.streams]
        negative = None if self.negatives is None else Examples(self.negatives.x, device, self.resident)
        inlier = Examples(self.train_x, device, self.resident, self.train_rows)
        streams = (self.labels, auxiliary, negative)
        return TrainLoader(inlier, self.batch_size, self.seed, *streams, self.members, self.mutation)

    def val_dataloader(self) -> SequentialLoader:
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        held = self.held_out["validation"]
        labels = None if held.y is None else torch.as_tensor(held.y)
        return SequentialLoader(Examples(held.x, device, self.resident), self.batch_size, labels)

    def training_examples(self) -> TestSet:
        """The inliers of the training part, with their labels."""
        self.setup()
        assert self.train_x is not None
        labels = None if self.labels is None else self.labels.numpy()
        return TestSet(self.train_x[self.train_rows], self.inlier.name, "training part of train", self.sha256, labels)

    def _tests(self) -> dict[str, TestSet]:
        """The complete test splits of the inlier and the out sets found, except transforms."""
        tests = {self.inlier.name: self._load(self.inlier, "test")}
        for name, dataset in self.out.items():
            if isinstance(dataset, Transform):
                continue
            try:
                tests[name] = self._load(dataset, "test")
            except UserError as error:
                if self.missing != "skip" or not isinstance(error.__cause__, FileNotFoundError):
                    raise
                self.skipped[name] = str(error)
        return tests

    def _check_unseen(self, sets: Mapping[str, TestSet]) -> None:
        """Raise UserError if an auxiliary or negative stream contains a test row.

        Images are not compared: their splits are official, whereas tables are split by us.
        """
        for stream in (*self.streams, *([] if self.negatives is None else [self.negatives])):
            known = {row.tobytes() for row in stream.x}
            for name, test in sets.items():
                if count := sum(row.tobytes() in known for row in test.x):
                    raise UserError(
                        f"{count} of the {len(test.x)} test rows of {name} are also training rows of {stream.name}; "
                        f"remove {name}, or test on the other part of {stream.name}"
                    )

    def _limited(self, test: TestSet) -> TestSet:
        if self.limit is None or len(test.x) <= self.limit:
            return test
        kept = np.sort(np.random.default_rng(0).permutation(len(test.x))[: self.limit])
        return test._replace(x=test.x[kept], y=None if test.y is None else test.y[kept])

    def _load(self, dataset: Dataset, split: str) -> TestSet:
        if self.smoke:
            count = 4 * self.batch_size + 16 if split == "train" else 4
            rng = np.random.default_rng(sum(map(ord, dataset.name + split)))
            shape, rows = (count, *dataset.shape), len(dataset.shape) == 1
            x = rng.standard_normal(shape, np.float32) if rows else rng.integers(0, 256, shape, np.uint8)
            origin = f"random {'rows' if rows else 'images'} (smoke)"
            labels = None if rows else np.arange(count) % 10  # ten classes
            return self._scaled(TestSet(self._prepare(x, dataset.name), dataset.name, origin, "smoke", labels))
        found = load(dataset, split, self.root)
        x = self._prepare(found.x, dataset.name)
        return self._scaled(TestSet(x, dataset.name, found.origin, found.sha256, found.y))

    def _scaled(self, part: TestSet) -> TestSet:
        return part if self.scaling is None else part._replace(x=self.scaling(part.x))

    def _prepare(self, x: np.ndarray, name: str) -> np.ndarray:
        x = preprocess(x, self.grey, self.size)
        if x.shape[1:] != self.shape:
            raise UserError(
                f"{name} has examples of shape {_times(x.shape[1:])}, {self.inlier.name} of {_times(self.shape)}; "
                "make them equal with data.grey=true and data.size=[height,width]"
            )
        return x


def _rates(mutation: float | Sequence[float] | None, members: int) -> list[float]:
    """The mutation rate of each member."""
    if mutation is None or isinstance(mutation, (int, float)):
        mutation = [mutation or 0.0] * members
    if len(mutation) != members:
        raise UserError(f"data.mutation={list(mutation)} must be one rate, or one for each of {members} members")
    return [float(rate) for rate in mutation]


def _check_trained(roles: Mapping[str, Dataset]) -> None:
    """Raise UserError unless the training sets are data sets (no transforms), each used once."""
    known: dict[str, str] = {}
    for role, dataset in roles.items():
        if not isinstance(dataset, Dataset):
            raise UserError(f"data.{role}={dataset.name} is a test set only, which cannot be used for training")
        if dataset.name in known:
            # a stream of the inlier set would contain its held-out parts
            raise UserError(
                f"data.{role} and data.{known[dataset.name]} are both {dataset.name}; choose another set, or remove "
                f"one with ~data.{role}"
            )
        known[dataset.name] = role


def _times(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
