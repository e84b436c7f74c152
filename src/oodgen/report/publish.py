"""Copies of the files of finished runs that a report needs, without paths of the machine, to be published."""

import json
from collections.abc import Iterable
from pathlib import Path

import yaml

from oodgen.errors import UserError
from oodgen.runs import locations
from oodgen.runs.documents import load_json, load_yaml
from oodgen.runs.files import write_text

__all__ = ["KEPT", "keep"]

KEPT = ("config.yaml", "record.json", "results.csv", "state.json")


def keep(folders: Iterable[Path], out: Path) -> int:
    """Copy the small files of evaluations to `out`/<experiment>/<digest>/, absolute paths cut to their last name.

    `python -m oodgen.report` reads a folder of such copies like the runs, also together with later runs.

    Returns:
        The number of runs copied.

    Raises:
        UserError: `out` is the folder of the runs.
    """
    count = 0
    for folder in folders:
        target = out / folder.parent.name / folder.name
        if target.resolve() == folder.resolve():
            raise UserError(f"{out} is where the runs lie already; keep them in another folder")
        for name in KEPT:
            if not (folder / name).is_file():  # a run that diverged has no rows
                continue
            if name.endswith(".json"):
                text = json.dumps(locations.without_directories(load_json(folder / name)), indent=1)
            elif name.endswith(".yaml"):
                text = yaml.safe_dump(locations.without_directories(load_yaml(folder / name)), sort_keys=False)
            else:
                text = (folder / name).read_text()
            write_text(target / name, text)
        count += 1
    return count
