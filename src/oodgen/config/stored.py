"""The folders and the config of a finished run, which may be a stranger's: read as data and checked, without torch."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from oodgen.config import schema
from oodgen.errors import UserError
from oodgen.runs import locations, record
from oodgen.runs.documents import load_yaml

__all__ = ["StoredRun", "read_run"]


class StoredRun(NamedTuple):
    """A finished run: the folders of its evaluation and of its training, and its resolved config."""

    folder: Path
    training: Path
    config: dict[str, Any]


def read_run(run: Path) -> StoredRun:
    """Find and check a finished run.

    Arguments:
        run: An evaluation's directory, runs/eval/<name>/<hash>, or runs/eval/<name> if that contains one only.

    Raises:
        UserError: there is none, it is not finished, or a file of it is missing, unreadable or not that of a run.
    """
    with suppress(RuntimeError):  # of a user that there is not
        run = run.expanduser()
    folder = _evaluation(run)
    config = _config(folder)
    return StoredRun(folder, _training_folder(folder), config)


def _evaluation(run: Path) -> Path:
    """The directory of the finished evaluation at or below `run`."""
    if not run.is_dir():
        raise UserError(f"there is no run {run}; name the directory of an evaluation, runs/eval/<name>/<hash>")
    if not (run / "state.json").is_file():
        inside = sorted(path.parent for path in run.glob("*/state.json"))
        inside = [path for path in inside if len(inside) == 1 or record.read_state(path)["state"] == "done"]
        if len(inside) != 1:
            what = f"has {len(inside)}: {', '.join(p.name for p in inside)}" if inside else "has none"
            raise UserError(f"name the directory of one finished evaluation, runs/eval/<name>/<hash>; {run} {what}")
        run = inside[0]
    state = record.read_state(run)
    if state["state"] != "done":
        why = f": {state['why']}" if state.get("why") else ""
        raise UserError(f"{run} is not finished ({state['state']}{why}); repeat its command")
    if not (run / "record.json").is_file():
        raise UserError(f"{run} is a training; name the directory of an evaluation of it, runs/eval/<name>/<hash>")
    return run


def _training_folder(folder: Path) -> Path:
    """The training's directory of an evaluation, also if the runs folder was moved."""
    made = record.read_json(folder / "record.json")
    found = locations.training_folder(folder, made)
    if found is None:
        raise UserError(
            f"the training {made.get('train_dir')} of {folder} is missing; keep runs/train beside runs/eval"
        )
    return found


def _config(run: Path) -> dict[str, Any]:
    """A run's config as plain data, validated by `schema.check`, since the directory may be untrusted."""
    path = run / "config.yaml"
    try:
        config = load_yaml(path)
    except UserError as error:
        raise UserError(f"{error}; evaluate this run again") from error
    if not isinstance(config, dict) or not {"method", "probes", "scores", "device", "checkpoint", "eval_seed"} <= set(
        config
    ):
        raise UserError(f"{path} is not the config of a run; evaluate this run again")
    # a run's config is written resolved; an interpolation could become a target after the check
    if "${" in json.dumps(config, default=str):
        raise UserError(f"{path} holds an interpolation ${{...}}, which no run writes; it was not loaded")
    found = {str(name): value for name, value in config.items()}
    schema.check(found, complete=False)
    return found
