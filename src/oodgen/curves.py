"""The training curves of a run as one CSV file that survives a resume."""

import csv
import io
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger

from oodgen.files import write_text

__all__ = ["Curves"]


class Curves(Logger):
    """Appends to metrics.csv, one row per logged step.

    Lightning's own CSVLogger deletes what an interrupted run had written. This one keeps it: the first row of a
    resumed run drops the rows that the interrupted one had written from that step on.

    Arguments:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.rows, self.columns, self.fresh = path, list[dict[str, str]](), list[str](), True
        if path.is_file():
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                self.rows = list(reader)
                self.columns = list(reader.fieldnames or [])

    @property
    def name(self) -> str:
        return "curves"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved config stands beside the file."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = step or 0
        row = {"step": str(step)} | {name: f"{value:.7g}" for name, value in metrics.items()}
        new = [name for name in row if name not in self.columns]
        if self.fresh or new:
            kept = [old for old in self.rows if not self.fresh or int(old["step"]) < step]
            self.rows, self.fresh = [*kept, row], False
            self.columns += new
            write_text(self.path, _csv(self.columns, self.rows, header=True))
            return
        self.rows.append(row)
        with self.path.open("a", newline="") as file:
            file.write(_csv(self.columns, [row], header=False))


def _csv(columns: list[str], rows: list[dict[str, str]], header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
