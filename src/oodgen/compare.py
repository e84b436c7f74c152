"""`python -m oodgen.compare RUN RUN... --out FILE`: the same images as several finished runs reconstruct them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from oodgen import record
from oodgen.errors import UserError

__all__ = ["labels", "main"]


def labels(folders: Sequence[Path]) -> dict[str, Path]:
    """Each run by its experiment's name, with the seed and then the folder's name where that does not tell them apart.

    Raises:
        UserError: a folder is missing, is no finished run, or is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a run is given twice; give each of them once")
    for folder in folders:
        if not (folder / "record.json").is_file():
            what = "is no finished run" if folder.is_dir() else "is not there"
            raise UserError(f"{folder} {what}; give the folder of an evaluation, runs/eval/<name>/<hash>")
    facts = {folder: record.read_json(folder / "record.json") for folder in folders}
    names = {folder: str(about.get("experiment", folder.parent.name)) for folder, about in facts.items()}
    seeds = {folder: f"{name} seed {facts[folder].get('seed')}" for folder, name in names.items()}
    hashes = {folder: f"{seed} {folder.resolve().name}" for folder, seed in seeds.items()}
    told = next(by for by in (names, seeds, hashes) if len(set(by.values())) == len(folders) or by is hashes)
    return {label: folder for folder, label in told.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m oodgen.compare",
        description="Draw the same images as several finished runs reconstruct them, row by row.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="an evaluation's folder, runs/eval/NAME/HASH")
    parser.add_argument("--sets", nargs="+", default=(), metavar="SET", help="data sets (default: all that are shared)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a file .png or .svg")
    options = parser.parse_args(arguments)
    try:
        if options.out.suffix not in (".png", ".svg"):
            raise UserError(f"{options.out} is neither .png nor .svg; give --out such a name")
        runs = labels(options.runs)
        from oodgen import comparisons, look

        print(look.save(comparisons.side_by_side(runs, options.sets), options.out))
    except UserError as error:
        print(f"oodgen: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
