r"""The catalogue on the command line.

python -m oodgen.data                      list the sets, and which of them are present
python -m oodgen.data fetch NAME...        download and prepare
python -m oodgen.data prepare NAME...      decode raw files that were downloaded or put there by hand
python -m oodgen.data verify [NAME...]     compare prepared files with their recorded hashes
"""

import argparse
import os
import signal
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from oodgen.data.adversarial import Attack
from oodgen.data.catalog import Dataset, Transform, exists, load, prepare, verify
from oodgen.errors import UserError
from oodgen.runs.escape import terminal
from oodgen.runs.invocation import program
from oodgen.runs.locations import config_dir

__all__ = ["catalogue", "main"]


def _build(node: Any) -> Any:
    """A minimal `hydra.utils.instantiate`, without its import time."""
    if not isinstance(node, dict):
        return node
    arguments = {key: _build(value) for key, value in node.items() if key != "_target_"}
    module, name = node["_target_"].rsplit(".", 1)
    return getattr(import_module(module), name)(**arguments)


def catalogue() -> dict[str, Dataset | Transform | Attack | None]:
    """Every entry of conf/dataset by name; None for one with a mandatory argument (`???`)."""
    entries: dict[str, Dataset | Transform | Attack | None] = {}
    for path in sorted((config_dir() / "dataset").glob("*.yaml")):
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries[path.stem] = None if "???" in node.values() else _build(node)
    return entries


def _presence(dataset: Dataset, split: str, root: Path) -> str:
    for name, word in ((split, "prepared"), (f"{split}_sample", "sample")):
        path = root / "prepared" / dataset.name / f"{name}.npy"
        if path.exists() and (word == "prepared" or not _raw(dataset, split, root)):
            try:
                count = len(np.load(path, mmap_mode="r"))
            except (ValueError, EOFError, OSError):
                return "damaged"
            return word if count == dataset.sizes[split] else f"{word}: {count:,}"
    if dataset.of:
        return _presence(dataset.of, split, root).replace("prepared", "raw").replace("damaged", "absent")
    if not dataset.raw:
        return "embedded"
    return "raw" if _raw(dataset, split, root) else "absent"


def _raw(dataset: Dataset, split: str, root: Path) -> bool:
    return bool(dataset.raw) and all(exists(root / name) for name in dataset.raw[split])


def show(root: Path) -> None:
    """Print the catalogue, one line for each entry, and the data root."""
    for name, entry in catalogue().items():
        if entry is None:
            row = ("yours", "", "data=folder data.inlier.root=FOLDER")
        elif isinstance(entry, Transform):
            row = ("as inlier", "", "made from the inlier's test split")
        elif isinstance(entry, Attack):
            row = ("as inlier", "", "made against the trained model")
        else:
            sizes = (f"{split} {size:,} ({_presence(entry, split, root)})" for split, size in entry.sizes.items())
            row = ("x".join(map(str, entry.shape)), f"{entry.licence}; {entry.source}", ", ".join(sizes))
        print(f"{name:18} {row[0]:9} {row[2]:66} {row[1]}".rstrip())
    advice = "download missing sets with: python -m oodgen.data fetch NAME"
    print(f"\nThe data root is {terminal(root)} (OODGEN_DATA or --root); {advice}")


def fetch(dataset: Dataset, root: Path) -> None:
    """Download the raw files of a set; does nothing for a set without raw files.

    Raises:
        UserError: they cannot be downloaded.
    """
    if dataset.fetch is None:
        if dataset.raw:
            raise UserError(f"{dataset.name} cannot be fetched: {dataset.about}; see {dataset.source}")
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        dataset.fetch(root)
    except (OSError, RuntimeError, ValueError, ImportError, tarfile.TarError, zipfile.BadZipFile) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{dataset.name} could not be fetched: {reason}; see {dataset.source}") from error


def _chosen(names: Sequence[str]) -> list[Dataset]:
    entries = catalogue()
    sets = {name: entry for name, entry in entries.items() if isinstance(entry, Dataset)}
    for name in names:
        if name not in sets:
            why = "is made from another set" if name in entries else "is not in the catalogue"
            raise UserError(f"{name} {why}; available: {', '.join(sets)}")
    return [sets[name] for name in names] if names else list(sets.values())


def _verify(datasets: Sequence[Dataset], root: Path) -> None:
    faults, count = [], 0
    for dataset in datasets:
        for path in sorted((root / "prepared" / dataset.name).glob("*.npy")):
            if path.stem.endswith("_labels"):
                continue
            count += 1
            try:
                found = verify(dataset, path.stem, root)
                about = f"{len(found.x):,}, {found.origin}, SHA-256 {found.sha256[:12]}"
                print(terminal(f"{dataset.name} {path.stem}: {about}"))
            except UserError as error:
                faults.append(str(error))
    if faults:
        raise UserError("; ".join(faults))
    if not count:
        raise UserError(f"nothing is prepared under {root}; run: python -m oodgen.data prepare NAME --root {root}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(program(), description="List, fetch, prepare and verify data sets.")
    parser.add_argument("command", nargs="?", default="list", choices=("list", "fetch", "prepare", "verify"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="names as listed; verify without a name checks all")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("OODGEN_DATA", "data")), help="the data root")
    options = parser.parse_args(arguments)
    if arguments is None and hasattr(signal, "SIGPIPE"):
        # `... | head` closes the pipe early, which is no error
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        if options.command == "list":
            show(options.root)
            return 0
        if options.command != "verify" and not options.names:
            raise UserError(f"{options.command} needs a name; available: {', '.join(d.name for d in _chosen(()))}")
        datasets = _chosen(options.names)
        if options.command == "verify":
            _verify(datasets, options.root)
            return 0
        for dataset in datasets:
            if options.command == "fetch":
                fetch(dataset, options.root)
            for split in dataset.sizes:
                path, found = prepare(dataset, split, options.root), load(dataset, split, options.root)
                print(terminal(f"{path}: {len(found.x):,}, {found.origin}"))
    except UserError as error:
        print(f"oodgen: {terminal(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
