"""Time of the densities of the evidence, of many references and examples."""

import time

import numpy as np
import torch
from torch import Tensor

from oodgen.bench.subject import Bench
from oodgen.bench.timing import Table
from oodgen.scores.evidence import EvidenceDensity, Mahalanobis, Neighbours, SupportVectors
from oodgen.scores.marginals import Copod, KernelDensities, PValues

__all__ = ["measure"]


def measure(bench: Bench, count: int = 100_000, columns: int = 20) -> list[Table]:
    """One table, of CPU seconds: each form is fitted and applied once.

    Arguments:
        bench: The benchmark's settings.
        count: Number of reference rows, and of examples; a hundredth of it if quick.
        columns: Number of columns of both.
    """
    count = count // 100 if bench.quick else count
    mixing = np.random.default_rng(0).standard_normal((6, columns))
    reference, examples = (_rows(count, mixing, seed) for seed in (1, 2))
    forms: dict[str, EvidenceDensity] = {
        "neighbours": Neighbours(["*"]),
        "neighbours, whitened": Neighbours(["*"], whiten=True),
        "Mahalanobis": Mahalanobis(["*"]),
        "support vectors": SupportVectors(["*"]),
        "kernel densities": KernelDensities(["*"]),
        "COPOD": Copod(["*"]),
        "p-values": PValues(["*"]),
    }
    rows = []
    for name, form in forms.items():
        start = time.process_time()
        fitted = form.fit(reference)
        middle = time.process_time()
        fitted(examples)
        rows.append((name, middle - start, time.process_time() - middle))
    title = f"Densities of the evidence: {count:,} references, {count:,} examples, {columns} columns"
    return [Table(title, ("form", "fit, CPU s", "score, CPU s"), rows)]


def _rows(count: int, mixing: np.ndarray, seed: int) -> dict[str, Tensor]:
    """Dependent columns with heavy tails."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_t(3, (count, len(mixing))) @ mixing + 0.3 * rng.standard_t(3, (count, mixing.shape[1]))
    return {"bench/x": torch.from_numpy(rows.T.astype(np.float32))}
