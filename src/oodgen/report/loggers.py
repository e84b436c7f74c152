"""Logging of the config and the final scores to the loggers of a config (training curves: `training.curves`)."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.plugins.environments import LightningEnvironment

from oodgen.errors import UserError
from oodgen.report import tables, wandb_run
from oodgen.runs import record, results

__all__ = ["check_installed", "legal_names", "log_results", "session"]

PACKAGES = {"TensorBoardLogger": ("tensorboard",), "MLFlowLogger": ("mlflow", "sqlalchemy", "alembic")}


def check_installed(config: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UserError if a logger of the config's group `logger` needs a package that is not installed."""
    for name, options in config.items():
        packages = PACKAGES.get(str(options.get("_target_")).rpartition(".")[2], ())
        if missing := [package for package in packages if find_spec(package) is None]:
            raise UserError(f"logger.{name} needs {' and '.join(missing)}; pip install 'oodgen[{packages[0]}]'")


@contextmanager
def session(loggers: Sequence[Logger], config: Mapping[str, Any]) -> Iterator[None]:
    """Open the loggers of one run, log its config, and close them in any case.

    A W&B run that is left open would receive the data of the next run.

    Arguments:
        loggers: The loggers of the config.
        config: The resolved config.

    Raises:
        UserError: W&B or MLflow cannot start.
    """
    LightningEnvironment().set_global_rank(0)  # a run is one process, whatever RANK is
    status = "failed"
    try:
        for logger in loggers:
            _begin(logger, config)
        yield
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)
            if isinstance(logger, WandbLogger):
                wandb_run.finish_run(status)


def _begin(logger: Logger, config: Mapping[str, Any]) -> None:
    named = {**config, "fingerprint": record.fingerprint(config)}
    if isinstance(logger, WandbLogger):
        wandb_run.start_run(logger, config)
        logger.log_hyperparams(named)
        return
    try:
        logger.log_hyperparams(legal_names(named))
    except Exception as error:  # e.g. no server, or a folder that cannot be written
        name, why = type(logger).__name__, (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name} cannot begin ({why}); mend it, or leave it out with logger=none") from error


def log_results(loggers: Sequence[Logger], folder: Path) -> None:
    """Log the AUROC of every score on every out set as auroc/<out set>/<score>; to W&B also figures and tables.

    Arguments:
        loggers: The open loggers.
        folder: The evaluation's directory.

    Raises:
        UserError: a file of the evaluation is missing or damaged.
    """
    if not loggers:
        return
    rows = [row for row in results.read(folder / "results.csv") if row.metric == "auroc"]
    protocol = tables.main_protocol(tables.aggregate(rows))
    final = {
        f"auroc/{row.out}/{row.score}": row.value
        for row in rows
        if row.protocol == protocol and math.isfinite(row.value)
    }
    steps = record.read_json(folder / "record.json")["training"].get("steps", 0)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            wandb_run.log_results(logger, folder, final)
        else:
            logger.log_metrics(legal_names(final), steps)
            logger.save()


def legal_names(value: Any) -> Any:
    """Text, or the keys of a mapping, with characters other than letters, digits and `_-./` replaced."""
    if isinstance(value, str):
        return re.sub(r"[^\w./-]", "_", value, flags=re.ASCII)
    return {
        legal_names(str(key)): legal_names(item) if isinstance(item, Mapping) else item for key, item in value.items()
    }
