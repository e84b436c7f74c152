"""Training curves as a CSV file that is continued after a resume, forwarded to other loggers."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger

from oodgen.errors import UserError
from oodgen.runs.files import write_text

__all__ = ["CurvesLogger"]


class CurvesLogger(Logger):
    """Appends to metrics.csv, one row per logged step, and forwards each row to other loggers.

    Unlike Lightning's CSVLogger it keeps the rows of an interrupted run: the first row of a resumed run only removes
    the rows from its step on, and an incomplete last line. The other loggers receive the kept rows too.

    Arguments:
        path: The file.
        loggers: Loggers that receive the same rows.

    Raises:
        UserError: the file is damaged, or the disk is full.
    """

    def __init__(self, path: Path, loggers: Sequence[Logger] = ()) -> None:
        super().__init__()
        self.loggers = loggers
        self.path, self.rows, self.columns, self.fresh = path, list[dict[str, str]](), list[str](), True
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            reader = csv.DictReader(line for line in lines if line.endswith("\n"))
            self.rows = list(reader)
            self.columns = list(reader.fieldnames or [])
            if any(not (row.get("step") or "").isdecimal() or None in row.values() for row in self.rows):
                raise UserError(f"{path} is damaged; delete it and repeat the command")

    @property
    def name(self) -> str:
        return "curves"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the resolved config is stored beside the file."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = step or 0
        row = {"step": str(step)} | {name: f"{value:.7g}" for name, value in metrics.items()}
        new = [name for name in row if name not in self.columns]
        if self.fresh or new:
            kept = [old for old in self.rows if not self.fresh or int(old["step"]) < step]
            if self.fresh:
                self.replay(kept)
            self.rows, self.fresh = [*kept, row], False
            self.columns += new
            write_text(self.path, _csv(self.columns, self.rows, header=True))
        else:
            self.rows.append(row)
            try:
                with self.path.open("a", newline="") as file:
                    file.write(_csv(self.columns, [row], header=False))
            except OSError as error:
                raise UserError(
                    f"cannot write {self.path}: {error.strerror}; free some space and repeat the command"
                ) from error
        self.replay([row])

    def replay(self, rows: Sequence[Mapping[str, str]] | None = None) -> None:
        """Send rows, by default all rows of the file, to the other loggers."""
        for row in self.rows if rows is None else rows:
            numbers = {name: float(value) for name, value in row.items() if value and name != "step"}
            for logger in self.loggers:
                logger.log_metrics(numbers, int(row["step"]))
                logger.save()


def _csv(columns: list[str], rows: list[dict[str, str]], header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
