"""`oodgen reconstructions RUN RUN... --out FILE`: how runs reconstruct the same images."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oodgen.errors import UserError
from oodgen.report import page
from oodgen.runs import record
from oodgen.runs.escape import terminal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["labels", "main", "side_by_side"]


def labels(folders: Sequence[Path]) -> dict[str, Path]:
    """Unique labels of runs: the experiment's name, with the seed and the folder's name if needed.

    Raises:
        UserError: a folder is missing, is no finished run, or is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a run is given twice; give each once")
    for folder in folders:
        if not (folder / "record.json").is_file():
            what = "is not a finished run" if folder.is_dir() else "does not exist"
            raise UserError(f"{folder} {what}; give the folder of an evaluation, runs/eval/<name>/<hash>")
    facts = {folder: record.read_json(folder / "record.json") for folder in folders}
    names = {folder: str(about.get("experiment", folder.parent.name))[:100] for folder, about in facts.items()}
    seeds = {folder: f"{name} seed {str(facts[folder].get('seed'))[:20]}" for folder, name in names.items()}
    hashes = {folder: f"{seed} {folder.resolve().name}" for folder, seed in seeds.items()}
    labels = next(by for by in (names, seeds, hashes) if len(set(by.values())) == len(folders) or by is hashes)
    return {label: folder for folder, label in labels.items()}


def side_by_side(runs: Mapping[str, Path], sets: Sequence[str] = ()) -> "Figure":
    """A figure of the reconstructions of the same images by several finished runs.

    Arguments:
        runs: Label -> an evaluation's folder.
        sets: Data sets; by default all that every run has.

    Raises:
        UserError: a run has no reconstructions, or lacks a set, or used other images than the others.
    """
    import numpy as np

    from oodgen.plots import comparisons

    made = {label: page.read_reconstructions(folder) for label, folder in runs.items()}
    for label, found in made.items():
        if not found:
            raise UserError(f"{runs[label]} has no reconstructions; give a finished run, runs/eval/<name>/<hash>")
        for name in sets:
            if name not in found:
                raise UserError(f"{runs[label]} has no reconstructions of {name}; it has: {', '.join(found)}")
    first, *others = made
    chosen = list(sets) or [name for name in made[first] if all(name in made[label] for label in others)]
    if not chosen:
        raise UserError(f"no data set is in all of {', '.join(runs)}; give runs that share one")
    for name in chosen:
        for label in others:
            if not np.array_equal(made[label][name][0], made[first][name][0]):
                raise UserError(
                    f"the images of {name} differ between {runs[first]} and {runs[label]}; "
                    "give runs of the same data, preprocessing and data.limit"
                )
    return comparisons.reconstructions(
        {n: (made[first][n][0], {label: m[n][1] for label, m in made.items()}) for n in chosen}
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="oodgen reconstructions",
        description="Plot several finished runs' reconstructions of the same images, a row for each run.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="an evaluation's folder, runs/eval/NAME/HASH")
    parser.add_argument("--sets", nargs="+", default=(), metavar="SET", help="data sets (default: all that are shared)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a file .png or .svg")
    options = parser.parse_args(arguments)
    try:
        if options.out.suffix not in (".png", ".svg"):
            raise UserError(f"{options.out} does not end in .png or .svg; change --out")
        runs = labels(options.runs)
        from oodgen.plots import style

        print(style.save(side_by_side(runs, options.sets), options.out))
    except UserError as error:
        print(f"oodgen: {terminal(error)}", file=sys.stderr)
        return 2
    return 0
