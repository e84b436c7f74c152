r"""The criterion for simple sets of BPVAE, with its tables and figures.

A plain VAE is trained on the basic set and one on each candidate. A candidate qualifies if its mean log-likelihood
under its own VAE is larger than that of the basic set under the basic set's VAE,

$$\frac1{|C_s|} \sum_{x \in C_s} \log p_s(x) > \frac1{|C_b|} \sum_{x \in C_b} \log p_b(x) ,$$

where $\log p$ is the VAE's bound and C are held-out training images (a run's calibration part); no test images are
used. If the interval of the difference contains 0, the rule is undecided. The interval covers the variation of images,
not of training seeds.

Source: Ran et al. 2021, section 4 and figure 2.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from oodgen.runs import results
from oodgen.runs.files import write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Judgement", "TrainedVAE", "judge", "likelihood_ratios", "write"]


class TrainedVAE(NamedTuple):
    """The results of one VAE.

    Arguments:
        held: (n,) log-likelihoods of held-out training images, nats.
        rows: The rows of its results.csv.
        folder: The evaluation's folder.
        origin: Description of its training images.
    """

    held: "NDArray[np.floating]"
    rows: Sequence[results.Row]
    folder: Path
    origin: str


class Judgement(NamedTuple):
    """The criterion for one set: means over `n` held-out images, nats, and their difference with a 95 % interval.

    The verdict is "qualifies" if the interval is above 0, "undecided" if it contains 0, and "does not" otherwise, also
    for the basic set itself.
    """

    name: str
    n: int
    mean: float
    basic: float
    difference: float
    low: float
    high: float
    verdict: str


def judge(held: "Mapping[str, NDArray[np.floating]]", basic: str) -> list[Judgement]:
    r"""The criterion for every set, including the basic one.

    The interval is the difference of the means $\pm 1.96 \sqrt{s_s^2 / n_s + s_b^2 / n_b}$.

    Arguments:
        held: Set -> (n,) log-likelihoods of its held-out training images under its own VAE, nats.
        basic: Name of the basic set.
    """
    means = {name: float(values.mean()) for name, values in held.items()}
    squares = {name: float(values.var(ddof=1)) / len(values) for name, values in held.items()}
    found = []
    for name, values in held.items():
        difference = means[name] - means[basic]
        half = 0.0 if name == basic else 1.96 * math.sqrt(squares[name] + squares[basic])
        low, high = difference - half, difference + half
        verdict = "qualifies" if low > 0 else "undecided" if high > 0 else "does not"
        found.append(Judgement(name, len(values), means[name], means[basic], difference, low, high, verdict))
    return found


def likelihood_ratios(done: Mapping[str, TrainedVAE]) -> dict[str, dict[str, float]]:
    """Mean log-likelihood of each test set over that of the held-out training images, for each VAE.

    Both means are negative, so that below 1 the test set has the larger likelihood. If a mean is not negative, as for
    densities, the ratio is nan.
    """
    found: dict[str, dict[str, float]] = {}
    for name, trained in done.items():
        base = float(trained.held.mean())
        tests = {row.out: row.value for row in trained.rows if (row.score, row.metric) == ("l>0", "nats")}
        found[name] = {out: mean / base if max(mean, base) < 0 else math.nan for out, mean in tests.items()}
    return found


def write(folder: Path, done: Mapping[str, TrainedVAE], judged: Sequence[Judgement]) -> None:
    """Write simple_set.csv, ratios.csv, figure_2a.svg and figure_2b.svg.

    Arguments:
        folder: The output folder.
        done: The VAEs, the basic set's first.
        judged: The criterion for each.
    """
    from oodgen.plots import comparisons, figures, style

    lines = [[*row, done[row.name].origin, "/".join(done[row.name].folder.parts[-3:])] for row in judged]
    write_text(folder / "simple_set.csv", _csv([*Judgement._fields, "origin", "run"], lines))
    matrix = likelihood_ratios(done)
    pairs = [[name, out, value] for name, row in matrix.items() for out, value in row.items()]
    write_text(folder / "ratios.csv", _csv(["trained_on", "test_set", "ratio"], pairs))
    held = {name: trained.held for name, trained in done.items()}
    style.save(figures.likelihoods(held, next(iter(done)), "basic"), folder / "figure_2a.svg")
    style.save(comparisons.likelihood_ratio_matrix(matrix), folder / "figure_2b.svg")


def _csv(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for line in lines:
        writer.writerow("" if x != x else f"{x:.6g}" if isinstance(x, float) else x for x in line)
    return text.getvalue()
