"""Probes x data sets -> evidence on disk -> scores -> tidy rows."""

import hashlib
import io
import logging
import math
import sys
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
from oodgen.runs.files import whole, write_text
from oodgen.runs.labels import named
from oodgen.runs.record import digest
from oodgen.runs.results import Row
from oodgen.training.device import Device

__all__ = [
    "EvaluatedModel",
    "ask",
    "check",
    "collect",
    "fit_probes",
    "fit_scores",
    "reconstructions",
    "rows",
    "runaway",
    "score",
]

log = logging.getLogger(__name__)

Score = Callable[[Evidence], Tensor]


class EvaluatedModel(NamedTuple):
    """Whom the probes ask, and how: a model with its weights' name, and where its evidence is kept.

    Arguments:
        model: The model, on the device.
        weights: The checkpoint's name.
        folder: Where evidence is kept.
        shared: Where the evidence of probes that ask no model is kept, for all models.
        device: Precision.
        seed: The evaluation seed.
    """

    model: nn.Module
    weights: str
    folder: Path
    shared: Path
    device: Device
    seed: int


def collect(evaluated: EvaluatedModel, probes: Mapping[str, Probe], test: TestSet) -> dict[str, Tensor]:
    """The evidence of all probes on one set, named `<probe>/<name>`, from disk where it is there already."""
    evidence: dict[str, Tensor] = {}
    # of the pixels themselves: what a transformation made is not named by the file it was made from
    pixels = hashlib.sha256(np.ascontiguousarray(test.x).data).hexdigest()
    for name, probe in probes.items():
        key: dict[str, Any] = {"probe": f"{type(probe).__module__}.{probe!r}", "set": [test.name, pixels]}
        # and of the probes that it may hold
        folder, asked = evaluated.shared, [type(probe), *map(type, vars(probe).values())]
        if probe.needs is not object:
            folder, asked = evaluated.folder, [*asked, *map(type, evaluated.model.modules())]
            key |= {"weights": evaluated.weights, "seed": evaluated.seed, "precision": evaluated.device.precision}
        key["code"] = code_of(frozenset(kind.__module__ for kind in asked))
        path = folder / f"{name}-{test.name}-{digest(key)}.safetensors"
        found = _read(path) if path.is_file() else None
        if found is None:
            found = ask(evaluated, probe, test)
            with whole(path) as temporary:
                save_file(found, temporary)
        evidence |= {f"{name}/{item}": value for item, value in found.items()}
    return evidence


@cache
def code_of(modules: frozenset[str]) -> str:
    """A digest of modules of ours or a plug-in's and of all such that they import: after a mend, old evidence is not
    believed."""
    found: dict[str, bytes] = {}
    packages = ("oodgen", *plugins.admitted())
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name.partition(".")[0] not in packages or name in ("oodgen", *found):
            continue
        module = sys.modules[name]
        found[name] = Path(module.__file__).read_bytes() if module.__file__ else b""
        # a class or function names its module, and a module itself
        todo += [str(getattr(v, "__module__", None) or getattr(v, "__name__", "")) for v in vars(module).values()]
    return digest({name: hashlib.sha256(content).hexdigest() for name, content in found.items()})


def ask(evaluated: EvaluatedModel, probe: Probe, test: TestSet) -> dict[str, Tensor]:
    """What one probe says of a set, asked in batches; nothing is kept."""
    parts: dict[str, list[Tensor]] = {}
    examples = Examples(test.x, evaluated.device.torch, 0)
    with probe_grad_mode(probe, evaluated.model), evaluated.device.autocast():
        for batch in SequentialLoader(examples, probe.batch(evaluated.model)):
            for name, value in probe(evaluated.model, batch.x, ExampleNoise(evaluated.seed, batch.index)).items():
                parts.setdefault(name, []).append(value.detach())
    return {name: torch.cat(values, dim=-1).cpu().contiguous() for name, values in parts.items()}


def _read(path: Path) -> dict[str, Tensor] | None:
    """Stored evidence; None, with a warning, if the file is damaged: it can be asked again."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        log.warning("%s is damaged (%s); it is computed again", path, error)
        return None


def fit_probes(
    evaluated: EvaluatedModel, probes: Mapping[str, Any], trained: Callable[[], TestSet]
) -> dict[str, Probe]:
    """Probes that need a reference, fitted on the inliers that were `trained` on; the others as they are."""
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
    """Scores that need a reference, fitted on inlier validation evidence; the others as they are.

    Raises:
        UserError: as `score`.
    """
    fitted = {}
    for name, score in scores.items():
        with _asking(name, reference):
            fitted[name] = score.fit(reference) if callable(getattr(score, "fit", None)) else score
    return fitted


def score(scores: Mapping[str, Score], evidence: Evidence) -> dict[str, np.ndarray]:
    """Every score of every example, float64 (N,).

    Raises:
        UserError: a score asks for evidence that no probe gave, or for a level that the model does not have.
    """
    values = {}
    for name, function in scores.items():
        with _asking(name, evidence):
            values[name] = function(evidence).double().numpy()
    return values


@contextmanager
def _asking(name: str, evidence: Evidence) -> Iterator[None]:
    try:
        yield
    except (KeyError, IndexError) as error:
        given = ", ".join(sorted(evidence))
        raise UserError(
            f"score {named(name)} asks for {error} which the probes did not give; there are: {given}; leave that score "
            "out, or ask for it"
        ) from error


def check(scores: Mapping[str, np.ndarray], out: str) -> None:
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


def runaway(scores: Mapping[str, Mapping[str, np.ndarray]], width: float = 1e3) -> list[str]:
    """A sentence for each out set whose mean bound lies more than `width` times as low as its median.

    There an encoder or decoder has left all bounds for a few examples (one diverged run of Csiszárik et al. 2019 prints
    10^18 nats per dimension): the ranks, and so the AUROC, stand, but the mean says nothing.
    """
    found = []
    for out, columns in scores.items():
        for name, values in columns.items():
            mean, median = abs(float(values.mean())), abs(float(np.median(values)))
            if name.startswith("l>") and (math.isinf(mean) or mean > width * median):
                found.append(
                    f"{name} of {out} has run away: its mean is {values.mean():.3g} nats, its median "
                    f"{np.median(values):.3g}; ranks stand, means of it say nothing."
                )
    return found


def rows(
    who: tuple[str, str, int],
    scores: Mapping[str, Mapping[str, np.ndarray]],
    pixels: int,
    oracle: Mapping[str, Sequence[str]],
    means: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    width: float | None = 1.0,
) -> list[Row]:
    r"""All metrics of all scores: on full sets, on balanced ones, and with hindsight; and the means of each set.

    The mean bound of a set stands as `nats` for an example; as `nats_dim` in nats per dimension, as a density of pixels
    on [0, 1]; and as `bpd` in bits per dimension, as a mass of pixels on 256 levels:
    $-\mathcal L / D + \ln w$ and $-\mathcal L / (D \ln 2)$ for a mass of bins of width w,
    $-\mathcal L / D$ and $(-\mathcal L / D + \ln 255) / \ln 2$ for a density.

    Arguments:
        who: Experiment, fingerprint and seed.
        scores: Of each set, the inlier's first, each score's values.
        pixels: D, the dimensions of an example.
        oracle: Names of scores that are chosen among others by their AUROC on the very out set.
        means: Of each set, the values of what is only averaged.
        width: w, the likelihood's `bin`; None for a density, or where no score is a bound.
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
            found.append(Row(*who, inlier, out, name, metric, float(value), math.nan, math.nan, "full", n, n))
    for out in outs:
        for name in scores[inlier]:
            a, b = scores[inlier][name], scores[out][name]
            full = _pair(who, inlier, out, name, a, b, "full")
            found += full
            if len(a) == len(b):
                found += [row._replace(protocol="balanced") for row in full]
            else:
                found += _pair(who, inlier, out, name, *_balanced(a, b), "balanced")
        for name, among in oracle.items():
            full = [row for row in found if (row.out, row.protocol) == (out, "full")]
            aurocs = {row.score: row.value for row in full if row.metric == "auroc"}
            there = [other for other in among if other in aurocs]
            if there:
                best = max(there, key=aurocs.__getitem__)
                found += [row._replace(score=name, protocol="oracle") for row in full if row.score == best]
    return found


def _pair(
    who: tuple[str, str, int], inlier: str, out: str, name: str, a: np.ndarray, b: np.ndarray, protocol: str
) -> list[Row]:
    found = [
        Row(*who, inlier, out, name, metric, value.value, value.low, value.high, protocol, len(a), len(b))
        for metric, value in metrics.bootstrap(a, b).items()
    ]
    if name.startswith("control:"):
        area = found[[row.metric for row in found].index("auroc")]
        # a control has no direction of its own: what counts is how far it parts the two sets
        flipped = area.value < 0.5
        low, high = (1 - area.high, 1 - area.low) if flipped else (area.low, area.high)
        found.append(area._replace(metric="separation", value=max(area.value, 1 - area.value), low=low, high=high))
    return found


def _balanced(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal numbers of both: all of the smaller set, a seeded choice of the larger."""
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
    """The first examples of each set and what the model makes of its z_{>k}, k = 0..L-1: uint8 (1 + L, n, C, H, W).

    Nothing of rows, or of a model without latent variables.
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
