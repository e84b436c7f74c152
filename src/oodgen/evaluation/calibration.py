"""Calibration data of a detector: the evidence of held-out inliers, stored with the evaluation."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, uint8
from torch import bool as boolean

from oodgen.data.rows import Scaling
from oodgen.errors import UserError
from oodgen.evaluation import evaluate
from oodgen.probes.probe import Probe
from oodgen.runs.files import atomic_path

if TYPE_CHECKING:
    from oodgen.data.module import OODDataModule  # Lightning, which a detector does without

__all__ = ["Calibration", "Conversion", "calibrate", "read", "weights_digest"]

LARGEST = 2**26  # numbers of an example


class Conversion(NamedTuple):
    """The conversion of image files or rows to examples of the model.

    Arguments:
        shape: Shape of a decoded image file, (C, H, W), or of a row, (D,).
        grey, size: The run's preprocessing, see `oodgen.data.preprocess`.
        scaling: The fitted scaling of rows.
    """

    shape: tuple[int, ...]
    grey: bool
    size: tuple[int, int] | None
    scaling: Scaling | None = None


class Calibration(NamedTuple):
    """The content of calibration.safetensors.

    Arguments:
        validation: Evidence of the validation part, for fitting scores.
        calibration: Evidence of the calibration part, for p-values.
        conversion: From image files to examples.
        inlier: Name of the inlier set.
        weights: Digest of the model's weights.
        fitted: Probe -> its tensors `fitted`.
    """

    validation: dict[str, Tensor]
    calibration: dict[str, Tensor]
    conversion: Conversion
    inlier: str
    weights: str
    fitted: dict[str, dict[str, Tensor]]


def calibrate(
    evaluated: evaluate.EvaluatedModel, probes: Mapping[str, Probe], data: "OODDataModule", folder: Path
) -> None:
    """Write calibration.safetensors: all evidence of the validation and calibration parts of the train split.

    Evidence is stored instead of scores, so that a detector can use any score of the run, without training data.

    Arguments:
        evaluated: The trained model.
        probes: The run's probes, fitted.
        data: The run's data, set up.
        folder: The evaluation's directory.
    """
    evidence = {
        f"{part}/{name}": value
        for part in ("validation", "calibration")
        for name, value in evaluate.collect_evidence(evaluated, probes, data.held_out[part]).items()
    }
    for name, probe in probes.items():
        fitted: Mapping[str, Tensor] = getattr(probe, "fitted", {})
        evidence |= {f"fitted/{name}/{item}": value.cpu().contiguous() for item, value in fitted.items()}
    about = {
        "conversion": Conversion(tuple(data.inlier.shape), data.grey, data.size, data.scaling),
        "inlier": data.inlier.name,
        "weights": weights_digest(evaluated.model),
    }
    with atomic_path(folder / "calibration.safetensors") as temporary:
        save_file(evidence, temporary, {name: json.dumps(value) for name, value in about.items()})


def read(folder: Path) -> Calibration:
    """Read calibration.safetensors.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / "calibration.safetensors"
    again = f"delete {folder} and repeat the command of that run (its training is kept)"
    if not path.is_file():
        raise UserError(f"{folder} was evaluated without a calibration; {again}")
    try:
        with safe_open(path, "pt") as file:
            about = {name: json.loads(value) for name, value in file.metadata().items()}
            evidence = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        shape, grey, size, *rest = about["conversion"]  # calibrations older than `scaling` hold three of them
        scaling = Scaling(*rest[0]) if rest and rest[0] else None
        conversion = Conversion(tuple(shape), grey, None if size is None else (size[0], size[1]), scaling)
        _check_conversion(conversion)
        validation, calibration = (
            {name.removeprefix(f"{part}/"): value for name, value in evidence.items() if name.startswith(f"{part}/")}
            for part in ("validation", "calibration")
        )
        for part in (validation, calibration):
            counts = {tuple(value.shape[-1:]) if value.dtype != boolean else () for value in part.values()}
            if len(counts) > 1 or counts & {(), (0,)}:
                raise ValueError("its evidence is not numbers of each example")
        fitted: dict[str, dict[str, Tensor]] = {}
        for name, value in evidence.items():
            if name.startswith("fitted/"):
                _, probe, item = name.split("/")
                fitted.setdefault(probe, {})[item] = value
        return Calibration(validation, calibration, conversion, about["inlier"], about["weights"], fitted)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); {again}") from error


def _check_conversion(conversion: Conversion) -> None:
    """Raise ValueError for a conversion that no run has, or to images too large to be held."""
    shape, scaling, sizes = conversion.shape, conversion.scaling, (*conversion.shape, *(conversion.size or ()))
    plain = all(type(n) is int and 0 < n <= LARGEST for n in sizes) and type(conversion.grey) is bool
    if not plain or len(shape) not in (1, 3) or math.prod(shape) > LARGEST:
        raise ValueError("its conversion is not that of a run")
    if scaling is not None and not {len(part) for part in scaling} == {len(scaling.shift)} == {math.prod(shape)}:
        raise ValueError("its scaling is not that of rows")


def weights_digest(model: nn.Module) -> str:
    """A digest of a model's weights, to detect a calibration of other weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(uint8).numpy().data)
    return digest.hexdigest()[:16]
