"""Evaluation: evidence of all probes on all sets (stored on disk), scores, and rows of results."""

import hashlib
import io
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from oodgen import metrics
from oodgen.config import plugins
from oodgen.data.preprocess import TestSet
from oodgen.data.resident import Examples, SequentialLoader
from oodgen.errors import Diverged, UserError
from oodgen.models.density import Hierarchy
from oodgen.noise import ExampleNoise
from oodgen.probes.probe import Evidence, Probe, probe_grad_mode
from oodgen.runs.files import atomic_path, write_text
from oodgen.runs.labels import key_and_label
from oodgen.runs.record import digest
from oodgen.runs.results import Row
from oodgen.training.device import Device

__all__ = [
    "EvaluatedModel",
    "RecordingEvidence",
    "check_finite",
    "collect_evidence",
    "compute_scores",
    "diverging_means",
    "fit_probes",
    "fit_scores",
    "reconstructions",
    "result_rows",
    "run_probe",
    "score_seconds",
]

log = logging.getLogger(__name__)

Score = Callable[[Evidence], Tensor]


class EvaluatedModel(NamedTuple):
    """A trained model with the settings of its evaluation.

    Arguments:
        model: The model, on the device.
        weights: Name of the checkpoint.
        folder: Folder of its stored evidence.
        shared: Folder of the evidence of probes that use no model, shared by all models.
        device: Device settings.
        seed: The evaluation seed.
    """

    model: nn.Module
    weights: str
    folder: Path
    shared: Path
    device: Device
    seed: int


def collect_evidence(evaluated: EvaluatedModel, probes: Mapping[str, Probe], test: TestSet) -> dict[str, Tensor]:
    """The evidence of all probes on one set, named `<probe>/<name>`; stored evidence is reused."""
    evidence: dict[str, Tensor] = {}
    for name, path in _evidence_files(evaluated, probes, test).items():
        found = _read_evidence(path) if path.is_file() else None
        if found is None:
            start = time.perf_counter()
            found = run_probe(evaluated, probes[name], test)
            seconds = time.perf_counter() - start
            with atomic_path(path) as temporary:
                save_file(found, temporary, {"seconds": f"{seconds:.6g}"})
        evidence |= {f"{name}/{item}": value for item, value in found.items()}
    return evidence


def _evidence_files(evaluated: EvaluatedModel, probes: Mapping[str, Probe], test: TestSet) -> dict[str, Path]:
    """Probe -> the file of its evidence on a set, named by all that determines it."""
    paths: dict[str, Path] = {}
    # a hash of the examples, since transformed sets have no file of their own
    pixels = hashlib.sha256(np.ascontiguousarray(test.x).data).hexdigest()
    for name, probe in probes.items():
        key: dict[str, Any] = {"probe": f"{type(probe).__module__}.{probe!r}", "set": [test.name, pixels]}
        # the code of the probe, of a probe inside it, and of the model
        folder, code = evaluated.shared, [type(probe), *map(type, vars(probe).values())]
        if probe.needs is not object:
            folder, code = evaluated.folder, [*code, *map(type, evaluated.model.modules())]
            key |= {"weights": evaluated.weights, "seed": evaluated.seed, "precision": evaluated.device.precision}
        key["code"] = code_digest(frozenset(kind.__module__ for kind in code))
        paths[name] = folder / f"{name}-{test.name}-{digest(key)}.safetensors"
    return paths


@cache
def code_digest(modules: frozenset[str]) -> str:
    """A digest of the source of modules of oodgen or of plug-ins and all of these that they import.

    It is part of the name of stored evidence, which is thus recomputed after a change of the code.
    """
    found: dict[str, bytes] = {}
    packages = ("oodgen", *plugins.admitted())
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name.partition(".")[0] not in packages or name in ("oodgen", *found):
            continue
        module = sys.modules[name]
        found[name] = Path(module.__file__).read_bytes() if module.__file__ else b""
        # __module__ of classes and functions, __name__ of modules
        todo += [str(getattr(v, "__module__", None) or getattr(v, "__name__", "")) for v in vars(module).values()]
    return digest({name: hashlib.sha256(content).hexdigest() for name, content in found.items()})


def run_probe(evaluated: EvaluatedModel, probe: Probe, test: TestSet) -> dict[str, Tensor]:
    """The evidence of one probe on a set, computed in batches and not stored."""
    parts: dict[str, list[Tensor]] = {}
    examples = Examples(test.x, evaluated.device.torch, 0)
    with probe_grad_mode(probe, evaluated.model), evaluated.device.autocast():
        for batch in SequentialLoader(examples, probe.batch(evaluated.model)):
            for name, value in probe(evaluated.model, batch.x, ExampleNoise(evaluated.seed, batch.index)).items():
                parts.setdefault(name, []).append(value.detach())
    return {name: torch.cat(values, dim=-1).cpu().contiguous() for name, values in parts.items()}


def _read_evidence(path: Path) -> dict[str, Tensor] | None:
    """Stored evidence; None, with a warning, if the file is damaged, so that it is computed again."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        log.warning("%s is damaged (%s); it is computed again", path, error)
        return None


def fit_probes(
    evaluated: EvaluatedModel, probes: Mapping[str, Any], trained: Callable[[], TestSet]
) -> dict[str, Probe]:
    """Fit the probes that have `fit` on the training examples, `trained()`; the others are unchanged."""
    found: dict[str, Probe] = {}
    for name, probe in probes.items():
        if not callable(getattr(probe, "fit", None)):
            found[name] = probe
            continue
        test = trained()
        labels = None if test.y is None else torch.as_tensor(test.y)
        loader = SequentialLoader(Examples(test.x, evaluated.device.torch, 0), probe.batch(evaluated.model), labels)
        with probe_grad_mode(probe, evaluated.model), evaluated.device.autocast():
            batches = ((batch.x, batch.y, ExampleNoise(evaluated.seed, batch.index)) for batch in loader)
            found[name] = probe.fit(evaluated.model, batches)
    return found


def fit_scores(scores: Mapping[str, Any], reference: Evidence) -> dict[str, Score]:
    """Fit the scores that have `fit` on the evidence of inlier validation examples; the others are unchanged.

    Raises:
        UserError: as `compute_scores`.
    """
    fitted = {}
    for name, score in scores.items():
        with _evidence_errors(name, reference):
            fitted[name] = score.fit(reference) if callable(getattr(score, "fit", None)) else score
    return fitted


def compute_scores(scores: Mapping[str, Score], evidence: Evidence) -> dict[str, np.ndarray]:
    """Every score of every example, float64 (N,).

    Raises:
        UserError: a score uses evidence that no probe has computed, or a level that the model does not have.
    """
    values = {}
    for name, function in scores.items():
        with _evidence_errors(name, evidence):
            values[name] = function(evidence).double().numpy()
    return values


@contextmanager
def _evidence_errors(name: str, evidence: Evidence) -> Iterator[None]:
    try:
        yield
    except (KeyError, IndexError) as error:
        given = ", ".join(sorted(evidence))
        raise UserError(
            f"score {key_and_label(name)} needs {error}, which no probe provides; available: {given}; remove "
            "the score, or add what it needs"
        ) from error


def score_seconds(
    evaluated: EvaluatedModel, probes: Mapping[str, Probe], scores: Mapping[str, Score], test: TestSet
) -> dict[str, float]:
    """Score -> the seconds that it takes for 1,000 examples, with the probes that it reads, as they took on this set
    when their stored evidence was computed; without those whose evidence does not say, since it is older.
    """
    seconds: dict[str, float] = {}
    for name, path in _evidence_files(evaluated, probes, test).items():
        with safe_open(path, "pt") as file:
            if stated := (file.metadata() or {}).get("seconds"):
                seconds[name] = float(stated)
    evidence, found = collect_evidence(evaluated, probes, test), {}
    for name, function in scores.items():
        recorded, start = RecordingEvidence(evidence), time.perf_counter()
        function(recorded)
        own = time.perf_counter() - start
        if recorded.probes <= seconds.keys():
            found[name] = 1000 / len(test.x) * (own + sum(seconds[probe] for probe in recorded.probes))
    return found


class RecordingEvidence(Mapping[str, Tensor]):
    """Evidence that records the probes whose entries are read."""

    def __init__(self, evidence: Mapping[str, Tensor]) -> None:
        self.evidence, self.probes = evidence, set[str]()

    def __getitem__(self, name: str) -> Tensor:
        value = self.evidence[name]
        self.probes.add(name.rsplit("/", 1)[0])
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.evidence)

    def __len__(self) -> int:
        return len(self.evidence)


def check_finite(scores: Mapping[str, np.ndarray], out: str) -> None:
    """Raise Diverged if a score of the set `out` is not a number, or infinite for all of its examples."""
    for name, values in scores.items():
        if missing := int(np.isnan(values).sum()):
            raise Diverged(
                f"{name} is not a number for {missing} of the {len(values)} examples of {out}; score an earlier "
                "checkpoint (checkpoint=best or epochN, where kept), or train with a smaller learning rate"
            )
        if np.isinf(values).all():
            raise Diverged(
                f"{name} is infinite for all {len(values)} examples of {out}; score an earlier checkpoint "
                "(checkpoint=best or epochN, where kept), or train with a smaller learning rate"
            )


def diverging_means(scores: Mapping[str, Mapping[str, np.ndarray]], width: float = 1e3) -> list[str]:
    """A warning for each set whose mean bound is more than `width` times its median in absolute value.

    Then encoder or decoder diverge on a few examples (a run printed by Csiszárik et al. 2019 has 10^18 nats per
    dimension): ranks, and thus the AUROC, are valid, but means are not.
    """
    found = []
    for out, columns in scores.items():
        for name, values in columns.items():
            mean, median = abs(float(values.mean())), abs(float(np.median(values)))
            if name.startswith("l>") and (math.isinf(mean) or mean > width * median):
                found.append(
                    f"{name} of {out} diverges on some examples: mean {values.mean():.3g} nats, median "
                    f"{np.median(values):.3g}; ranks (AUROC) are valid, means are not."
                )
    return found


def result_rows(
    run_key: tuple[str, str, int],
    scores: Mapping[str, Mapping[str, np.ndarray]],
    pixels: int,
    oracle: Mapping[str, Sequence[str]],
    means: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    width: float | None = 1.0,
) -> list[Row]:
    r"""All metrics of all scores, with the protocols full, balanced and oracle; and the means over each set.

    The mean bound of a set is given as `nats` per example; as `nats_dim`, nats per dimension of a density of pixels on
    [0, 1]; and as `bpd`, bits per dimension of a mass of pixels on 256 levels:
    $-\mathcal L / D + \ln w$ and $-\mathcal L / (D \ln 2)$ for a mass of bins of width w,
    $-\mathcal L / D$ and $(-\mathcal L / D + \ln 255) / \ln 2$ for a density.

    Arguments:
        run_key: Experiment, fingerprint and seed.
        scores: Set -> score -> values (N,); the inlier set first.
        pixels: D, the dimension of an example.
        oracle: Name -> scores, of which the one with the best AUROC on each out set is taken.
        means: Set -> name -> values (N,) that are only averaged.
        width: w, the likelihood's `bin`; None for a density, or if no score is a bound.
    """
    inlier, *outs = scores
    found: list[Row] = []
    for out in scores:
        bounds = {name: values for name, values in scores[out].items() if name.startswith("l>")}
        averages = []
        for name, values in bounds.items():
            nats = values.mean() / pixels
            density, mass = (nats, nats + math.log(255)) if width is None else (nats + math.log(width), nats)
            averages += [(name, "nats", -values.mean()), (name, "nats_dim", density), (name, "bpd", mass / math.log(2))]
        averages += [(name, "mean", values.mean()) for name, values in (means or {}).get(out, {}).items()]
        n = len(next(iter(scores[out].values())))
        for name, metric, value in averages:
            found.append(Row(*run_key, inlier, out, name, metric, float(value), math.nan, math.nan, "full", n, n))
    for out in outs:
        for name in scores[inlier]:
            a, b = scores[inlier][name], scores[out][name]
            full = _pair_rows(run_key, inlier, out, name, a, b, "full")
            found += full
            if len(a) == len(b):
                found += [row._replace(protocol="balanced") for row in full]
            else:
                found += _pair_rows(run_key, inlier, out, name, *_balanced(a, b), "balanced")
        for name, among in oracle.items():
            full = [row for row in found if (row.out, row.protocol) == (out, "full")]
            aurocs = {row.score: row.value for row in full if row.metric == "auroc"}
            there = [other for other in among if other in aurocs]
            if there:
                best = max(there, key=aurocs.__getitem__)
                found += [row._replace(score=name, protocol="oracle") for row in full if row.score == best]
    return found


def _pair_rows(
    run_key: tuple[str, str, int], inlier: str, out: str, name: str, a: np.ndarray, b: np.ndarray, protocol: str
) -> list[Row]:
    found = [
        Row(*run_key, inlier, out, name, metric, value.value, value.low, value.high, protocol, len(a), len(b))
        for metric, value in metrics.bootstrap(a, b).items()
    ]
    if name.startswith("control:"):
        area = found[[row.metric for row in found].index("auroc")]
        # controls have no direction: their separation is max(AUROC, 1 - AUROC)
        flipped = area.value < 0.5
        low, high = (1 - area.high, 1 - area.low) if flipped else (area.low, area.high)
        found.append(area._replace(metric="separation", value=max(area.value, 1 - area.value), low=low, high=high))
    return found


def _balanced(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal numbers of both: the smaller set, and a seeded choice from the larger."""
    n = min(len(a), len(b))
    choice = np.random.default_rng(0).permutation
    return a[choice(len(a))[:n]], b[choice(len(b))[:n]]


def write_scores(folder: Path, scores: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """One CSV for each set: a column for each score, a row for each example."""
    for name, columns in scores.items():
        text = io.StringIO()
        np.savetxt(text, np.stack(list(columns.values()), 1), "%.7g", ",", header=",".join(columns), comments="")
        write_text(folder / f"{name}.csv", text.getvalue())


@torch.inference_mode()
def reconstructions(evaluated: EvaluatedModel, sets: Mapping[str, TestSet], count: int = 8) -> dict[str, np.ndarray]:
    """The first examples of each set and their reconstructions from z_{>k}, k = 0..L-1: uint8 (1 + L, n, C, H, W).

    Empty for rows, and for models without latent variables.
    """
    model = evaluated.model
    if not isinstance(model, Hierarchy) or any(test.x.ndim != 4 for test in sets.values()):
        return {}
    pictures = {}
    for name, test in sets.items():
        x = torch.tensor(test.x[:count], device=evaluated.device.torch)
        noise = ExampleNoise(evaluated.seed, torch.arange(len(x)))
        with evaluated.device.autocast():
            y = model.observe(x, noise)
            levels = [
                (model.reconstruct(y, noise, k) * 255).round().clamp(0, 255).to(torch.uint8) for k in range(model.depth)
            ]
        pictures[name] = torch.stack([x, *levels]).cpu().numpy()
    return pictures
