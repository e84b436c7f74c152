r"""A trained model as a detector: score, p-value and decision for each example.

The p-value of a score $s$ against the scores $s_1, \dots, s_n$ of the calibration split is

$$p = \frac{1 + \#\{i : s_i \ge s\}}{n + 1} .$$

If $s$ and the $s_i$ are exchangeable, as for an inlier used neither in training nor in calibration, then
$P(p \le \alpha) \le \alpha$ for every $\alpha$, model and score.

Source: Vovk, Gammerman, Shafer 2005, Algorithmic Learning in a Random World, chapter 2 (conformal prediction).
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from oodgen.config.instantiate import build, build_model
from oodgen.config.stored import StoredRun, read_run
from oodgen.data.images import decode
from oodgen.data.preprocess import preprocess
from oodgen.errors import UserError
from oodgen.evaluation import calibration, evaluate
from oodgen.evaluation.calibration import Conversion
from oodgen.noise import ExampleNoise
from oodgen.probes.probe import Evidence, Probe, probe_grad_mode
from oodgen.runs.labels import default_score, key_and_label, label
from oodgen.training.checkpoints import find_checkpoint, load_weights
from oodgen.training.device import Device

__all__ = ["Detector"]


@dataclass(frozen=True, eq=False)
class Detector:
    """An out-of-distribution detector of a finished run; `Detector.load`, or `oodgen.load`, makes one.

    `score`, `p_value` and `predict` take arrays and tensors; `decode` makes an array of an image file.

    Arguments:
        model: The trained model, on the device.
        probes: The probes that the score needs.
        rule: The fitted score.
        reference: Scores of the calibration split, shape (n,), float64, ascending.
        conversion: From image files to examples.
        device: Device settings.
        seed: Seed of the noise.
        name: Name of the score.
        inlier: Name of the inlier set.
    """

    model: nn.Module
    probes: Mapping[str, Probe]
    rule: Callable[[Evidence], Tensor]
    reference: Tensor
    conversion: Conversion
    device: Device
    seed: int = 0
    name: str = "evidence"
    inlier: str = "the inliers"

    @classmethod
    def load(cls, run: str | Path, score: str | None = None, device: str = "auto") -> "Detector":
        """Load the detector of a finished run from its evaluation and training directories (without its data).

        Arguments:
            run: An evaluation's directory, runs/eval/<name>/<hash>, or runs/eval/<name> if that contains one only.
            score: One of the run's scores; None for the default, see `runs.labels.default_score`.
            device: "auto", "cpu" or "gpu".

        Raises:
            UserError: there is no such run or score, it is not finished, or a file of it is missing or damaged.
        """
        try:
            return cls._load(read_run(Path(run)), score, device)
        except UserError:
            raise
        except Exception as error:  # a run may be damaged, or a stranger's, in ways that no check foresees
            why = next(iter(str(error).splitlines()), "")
            raise UserError(f"{run} cannot be loaded ({type(error).__name__}: {why}); evaluate it again") from error

    @classmethod
    def _load(cls, run: StoredRun, score: str | None, device: str) -> "Detector":
        folder, training, config = run
        kept = calibration.read(folder)
        name = label(score) if score else default_score(config["scores"])
        if name not in config["scores"]:
            raise UserError(f"{folder} has no score {score}; it has: {', '.join(map(key_and_label, config['scores']))}")
        rule = evaluate.fit_scores({name: build(config["scores"][name], f"scores.{name}")}, kept.validation)
        recorded = evaluate.RecordingEvidence(kept.calibration)  # only the probes that the score reads are run
        reference = torch.from_numpy(evaluate.compute_scores(rule, recorded)[name]).sort().values
        probes = {probe: build(config["probes"][probe], f"probes.{probe}") for probe in sorted(recorded.probes)}
        probes |= {probe: replace(probes[probe], fitted=kept.fitted[probe]) for probe in probes.keys() & kept.fitted}

        # precision and memory format of the run, on the device of this machine
        where = Device(device, config["device"]["precision"], config["device"]["channels_last"]).resolved()  # type: ignore[arg-type]
        model = build_model(config)
        load_weights(model, find_checkpoint(training, config["checkpoint"]))
        shape, grey, size, _ = kept.conversion
        if len(shape) == 3:
            shape = (1 if grey else shape[0], *(size or shape[1:]))
        if shape != tuple(model.shape):  # type: ignore[arg-type]
            raise UserError(f"{folder} makes examples of {shape}, not of {tuple(model.shape)}; evaluate this run again")  # type: ignore[arg-type]
        if calibration.weights_digest(model) != kept.weights:
            raise UserError(
                f"the model of {folder} was trained again after its calibration; "
                f"delete {folder} and repeat the command of that run (its training is kept)"
            )
        model = model.to(where.torch).eval()
        where.set_memory_format(model)
        return cls(model, probes, rule[name], reference, kept.conversion, where, config["eval_seed"], name, kept.inlier)

    def score(self, x: Tensor | np.ndarray) -> Tensor:
        """The score of each example, shape (N,), float64; larger = more out-of-distribution.

        An example's noise is seeded by a hash of its content, so that its score does not depend, up to rounding, on the
        other examples, and equal examples have equal scores.

        Arguments:
            x: uint8 images (N, C, H, W), or float32 rows (N, D), which are scaled as the training rows were; or a
                single example.

        Raises:
            UserError: examples have another type or shape than the training examples.
        """
        examples = self._checked(x)
        if self.conversion.scaling is not None:
            examples = torch.from_numpy(self.conversion.scaling(examples.cpu().numpy()))
        if not len(examples):
            return torch.empty(0, dtype=torch.float64)
        evidence = self.evidence(examples, _content_hashes(examples))
        return torch.from_numpy(evaluate.compute_scores({self.name: self.rule}, evidence)[self.name])

    def p_value(self, x: Tensor | np.ndarray) -> Tensor:
        """The conformal p-value of each example, shape (N,), float64: small = out-of-distribution.

        The share of the calibration scores, the example's own among them, that are at least as large; at least
        1 / (n + 1) with n calibration examples.

        Arguments:
            x: As for `score`.

        Raises:
            UserError: see `score`.
        """
        return self.p_value_of_score(self.score(x))

    def predict(self, x: Tensor | np.ndarray, false_alarm: float = 0.05) -> Tensor:
        """Whether each example is out-of-distribution, shape (N,), bool.

        Arguments:
            x: As for `score`.
            false_alarm: The share of inliers that may be flagged.

        Raises:
            UserError: see `score`; or the calibration split is too small for that rate.
        """
        self.check(false_alarm)
        return self.p_value(x) <= false_alarm

    def p_value_of_score(self, score: Tensor) -> Tensor:
        """The p-values of scores; NaN counts as larger than all calibration scores."""
        n = len(self.reference)
        below = torch.searchsorted(self.reference, score.double().contiguous()).masked_fill(score.isnan(), n)
        return (1 + n - below) / torch.tensor(n + 1, dtype=torch.float64)

    def check(self, false_alarm: float) -> None:
        """Raise UserError for a rate outside (0, 1), or below 1 / (n + 1), the smallest p-value."""
        n = len(self.reference)
        if not 0 < false_alarm < 1:
            raise UserError(f"false_alarm={false_alarm} is not between 0 and 1")
        if false_alarm * (n + 1) < 1:
            needed, least = int(np.ceil(1 / false_alarm)) - 1, np.ceil(1e4 / (n + 1)) / 1e4
            raise UserError(
                f"false_alarm={false_alarm} needs {needed:,} calibration images and this run has {n:,}; "
                f"use at least {least:g}, or train with a larger data.calibration"
            )

    def decode(self, path: Path) -> np.ndarray:
        """An image file, decoded and preprocessed as the training images: uint8 (C, H, W).

        Raises:
            UserError: the file is no readable image, or the model was trained on rows.
        """
        if len(self.conversion.shape) != 3:
            raise UserError(f"the model was trained on rows of {self.conversion.shape[0]} numbers, not on images")
        image = decode(path, self.conversion.shape)
        return preprocess(image[None], self.conversion.grey, self.conversion.size)[0]

    def evidence(self, x: Tensor, index: Tensor) -> dict[str, Tensor]:
        """The evidence that the score needs, `<probe>/<name>`, last axis = example, with noise of the indices (N,)."""
        parts: dict[str, list[Tensor]] = {}
        for name, probe in self.probes.items():
            size = probe.batch(self.model)
            for rows, numbers in zip(x.split(size), index.split(size), strict=True):
                with probe_grad_mode(probe, self.model), self.device.autocast():
                    # copies, since these may be inference-mode tensors
                    noise = ExampleNoise(self.seed, numbers.clone())
                    given = probe(self.model, rows.to(self.device.torch).clone(), noise)
                for item, value in given.items():
                    parts.setdefault(f"{name}/{item}", []).append(value.detach().cpu())
        return {name: torch.cat(values, dim=-1) for name, values in parts.items()}

    def _checked(self, x: Tensor | np.ndarray) -> Tensor:
        shape = tuple(self.model.shape)  # type: ignore[arg-type]
        # torch does not accept negative strides, and warns of read-only arrays, as memory maps
        examples = torch.as_tensor(np.require(x, requirements=["C", "W"]) if isinstance(x, np.ndarray) else x)
        dtype, words = (torch.uint8, "0 to 255") if len(shape) == 3 else (torch.float32, "rows")
        if tuple(examples.shape) == shape:
            examples = examples.unsqueeze(0)
        if tuple(examples.shape[1:]) != shape or examples.dtype != dtype:
            raise UserError(
                f"the detector needs {dtype} examples ({words}) of shape (N, {', '.join(map(str, shape))}), got "
                f"{examples.dtype} {tuple(examples.shape)}; Detector.decode(path) converts an image file"
            )
        return examples


def _content_hashes(x: Tensor) -> Tensor:
    """A 64-bit hash of each example's bytes, int64 (N,)."""
    rows = (np.ascontiguousarray(row).data for row in x.cpu().numpy())
    hashes = (hashlib.blake2b(row, digest_size=8).digest() for row in rows)
    return torch.tensor([int.from_bytes(value, "big", signed=True) for value in hashes], dtype=torch.int64)
