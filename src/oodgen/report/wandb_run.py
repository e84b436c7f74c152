"""Logging of an evaluation to Weights & Biases, from its files."""

import csv
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning.loggers import WandbLogger

from oodgen.errors import UserError
from oodgen.plots import figures
from oodgen.runs import record, results

__all__ = ["finish_run", "log_results", "start_run"]

log = logging.getLogger(__name__)

POINTS = 500  # of a ROC curve
BINS = 50  # of a histogram
COLUMNS = ("experiment", "seed", "inlier", "out", "score", "auroc", "low", "high", "protocol", "n_in", "n_out")


def start_run(logger: WandbLogger, config: Mapping[str, Any]) -> None:
    """Start the W&B run of one experiment run.

    Raises:
        UserError: `offline=false` without a usable key or network.
    """
    import wandb

    # W&B reads its settings once per process, before Lightning sets them in the environment
    options = logger._wandb_init
    settings = wandb.setup(wandb.Settings(**options.get("settings", {}))).settings
    options["mode"] = "offline" if logger._offline else settings.mode
    online = options["mode"] in ("online", "shared")
    advice = "run `wandb login` or set WANDB_API_KEY, or keep the run on disk with logger.wandb.offline=true"
    try:
        # beforehand, since wandb.init would prompt for a key on a terminal
        if online and not wandb.login(prompt=False):
            raise UserError(f"W&B has no key: {advice}")
        run = logger.experiment
    except wandb.errors.Error as error:
        raise UserError(f"W&B cannot start ({str(error).splitlines()[0]}): check the network, {advice}") from error
    if config["smoke"]:
        run.tags = (*(run.tags or ()), "smoke")
    if online:
        log.info("W&B: %s", run.url)
    elif options["mode"] == "offline":
        log.info("W&B: offline; upload this run with: wandb sync %s", Path(run.dir).parent)


def finish_run(status: str) -> None:
    """Close the open run, if there is one; status: "success" or "failed"."""
    import wandb

    wandb.finish(exit_code=int(status != "success"))


def log_results(logger: WandbLogger, folder: Path, final: Mapping[str, float]) -> None:
    """Log histograms and ROC curves of the scores, reconstructions, figures, page and results.

    Arguments:
        logger: The logger, with an open run.
        folder: The evaluation's directory.
        final: The final scores, for the summary.

    Raises:
        UserError: a file of the evaluation is missing or damaged.
    """
    import wandb

    run, facts = logger.experiment, record.read_json(folder / "record.json")
    rows = [row for row in results.read(folder / "results.csv") if row.metric == "auroc"]
    inlier = next(name for name, about in facts["datasets"].items() if about["role"] == "inlier")
    scores = {name: _scores(folder / "scores" / f"{name}.csv") for name in facts["datasets"]}
    shown: dict[str, Any] = {}
    # controls are in the table only
    for score in (name for name in scores[inlier] if not name.startswith("control:")):
        sets = {name: v for name, values in scores.items() if len(v := _finite(values.get(score)))}
        if inlier in sets:
            shown[f"histograms/{score}"] = _histograms(score, sets, inlier)
            shown[f"roc/{score}"] = _roc(score, sets, inlier)
    for path in sorted((folder / "figures").glob("*.png")):
        kind = "reconstructions" if path.stem.startswith("levels_") else "figures"
        shown[f"{kind}/{path.stem.removeprefix('levels_')}"] = wandb.Image(str(path))
    for path in sorted((folder / "figures").glob("*.svg")):
        shown[f"figures/{path.stem}"] = wandb.Html(path.read_text(encoding="utf-8"), inject=False)
    if (path := folder / "report.html").is_file():
        shown["report"] = wandb.Html(path.read_text(encoding="utf-8"), inject=False)
    shown["results"] = wandb.Table(list(COLUMNS), [_table_row(row) for row in rows])
    run.log(shown)
    run.summary.update(final)


def _scores(path: Path) -> dict[str, NDArray[np.float64]]:
    try:
        with path.open(encoding="utf-8") as file:
            names = next(csv.reader(file))
            values = np.loadtxt(file, delimiter=",", ndmin=2)
        return dict(zip(names, values.T, strict=True))
    except (OSError, ValueError, StopIteration) as error:
        raise UserError(f"cannot read {path}: {error}; evaluate this run again") from error


def _finite(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
    return np.empty(0) if values is None else values[np.isfinite(values)]


def _histograms(score: str, sets: Mapping[str, NDArray[np.float64]], inlier: str) -> Any:
    """Histograms of all sets with common bins; the outermost bins include what lies beyond them."""
    low, centre, high = np.quantile(sets[inlier], [0.05, 0.5, 0.95])
    reach = 12 * max(high - low, 1e-12)  # sets far away would leave one bin for all others
    everything = np.concatenate(list(sets.values()))
    low, high = np.quantile(everything, [0.005, 0.995]).clip(centre - reach, centre + reach)
    edges = np.linspace(low, max(high, low + 1e-12), BINS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    lines = []
    for name, values in sets.items():
        counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
        lines += [[name, x, y] for x, y in zip(middle.tolist(), (counts / len(values)).round(5).tolist(), strict=True)]
    return _plot(("set", score, "fraction"), lines, f"{score} ({inlier} is in)")


def _roc(score: str, sets: Mapping[str, NDArray[np.float64]], inlier: str) -> Any:
    lines = []
    for name, values in sets.items():
        if name != inlier:
            false, true = figures.roc_points(sets[inlier], values, POINTS)
            lines += [[name, x, y] for x, y in zip(false.round(5).tolist(), true.round(5).tolist(), strict=True)]
    return _plot(("out", "false positive rate", "true positive rate"), lines, f"ROC of {score}")


def _plot(columns: tuple[str, str, str], lines: list[list[Any]], title: str) -> Any:
    import wandb

    stroke, x, y = columns
    return wandb.plot.line(wandb.Table(list(columns), lines), x, y, stroke=stroke, title=title, split_table=True)


def _table_row(row: results.Row) -> list[Any]:
    values = row._asdict() | {"auroc": row.value}
    return [None if isinstance(v := values[name], float) and math.isnan(v) else v for name in COLUMNS]
