r"""`python -m oodgen.report runs/`: every finished run, over seeds, beside the papers' numbers.

Markdown goes to the terminal; report.md, report.html, report.tex, results.csv (rows) and summary.csv (means) to --out.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from oodgen import page, tables
from oodgen.errors import UserError
from oodgen.files import write_text

__all__ = ["Experiment", "Run", "collect", "experiments", "main", "write"]

# Options that may differ between two runs of one experiment without making them different experiments: each is named by
# its place in the config and stands for all below it. What follows `seed` is found by its value.
INCIDENTAL = ("seed", "logger", "runs", "retrain", "notes", "data.root", "device.threads")


class Run(NamedTuple):
    """One finished run."""

    folder: Path
    record: Mapping[str, Any]
    config: Mapping[str, str]
    rows: list[tables.Row]


class Experiment(NamedTuple):
    """Runs that differ in their seed alone."""

    name: str
    runs: list[Run]
    cells: list[tables.Cell]


def collect(root: Path) -> tuple[list[Run], list[str]]:
    """All finished runs below a folder, and a line for each one that is not.

    Raises:
        UserError: there is no such folder, no finished run in it, or a damaged file.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}; give the one that `python -m oodgen.run` writes to")
    runs, skipped = [], []
    for path in sorted((root / "eval" if (root / "eval").is_dir() else root).rglob("state.json")):
        if _is_training(path.parent) or not any((path.parent / n).exists() for n in ("record.json", "config.yaml")):
            continue
        state = page.read_json(path)
        if state.get("state") == "done":
            runs.append(_run(path.parent))
        else:
            why = f": {state['why']}" if state.get("why") else ""
            skipped.append(f"{path.parent.relative_to(root)} is {state.get('state', 'without a state')}{why}")
    if not runs:
        others = f" ({_counts(skipped)})" if skipped else ""
        raise UserError(
            f"no finished run in {root}{others}; run an experiment first: python -m oodgen.run +experiment=quickstart"
        )
    return runs, skipped


def _is_training(folder: Path) -> bool:
    """Whether a run's directory is runs/train/<fingerprint>, and not runs/eval/train/<hash>."""
    kind, root = folder.resolve().parts[-2], folder.resolve().parts[-3:-2]
    return kind == "train" and root != ("eval",)


def _run(folder: Path) -> Run:
    record = page.read_json(folder / "record.json")
    if not {"experiment", "seed", "method"} <= record.keys():
        raise UserError(f"{folder / 'record.json'} lacks experiment, seed or method; evaluate this run again")
    try:
        path = folder / "config.yaml"
        config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return Run(folder, record, dict(_flat(config or {})), tables.read(folder / "results.csv"))


def _flat(config: Any, prefix: str = "") -> list[tuple[str, str]]:
    if not isinstance(config, dict):
        return [(prefix, str(config))]
    return [pair for key, value in config.items() for pair in _flat(value, f"{prefix}.{key}" if prefix else str(key))]


def experiments(runs: Sequence[Run]) -> list[Experiment]:
    """Runs grouped by experiment; one with changed options is a group of its own, named by what was changed."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        smoke = " (smoke: random images)" if run.config.get("smoke") == "True" else ""
        groups.setdefault(run.record["experiment"] + smoke, []).append(run)
    found = []
    for name, group in groups.items():
        for label, members in _variants(group).items():
            title = f"{name} ({label})" if label else name
            rows = [row._replace(experiment=title) for run in members for row in run.rows]
            found.append(Experiment(title, members, tables.aggregate(rows)))
    return found


def _variants(runs: Sequence[Run]) -> dict[str, list[Run]]:
    keys = {key for run in runs for key in run.config if not f"{key}.".startswith(tuple(f"{i}." for i in INCIDENTAL))}
    differ = sorted(k for k in keys if len({run.config.get(k) for run in runs}) > 1 and not _follows_seed(k, runs))
    variants: dict[str, list[Run]] = {}
    for run in runs:
        label = ", ".join(f"{key}={run.config.get(key, 'unset')}" for key in differ)
        variants.setdefault(label, []).append(run)
    named: dict[str, list[Run]] = {}
    for label, members in variants.items():
        twice = {seed for seed, count in Counter(run.record["seed"] for run in members).items() if count > 1}
        for run in members:
            parts = [label] if label else []
            if run.record["seed"] in twice:
                parts.append(run.folder.name)
            named.setdefault(", ".join(parts), []).append(run)
    return named


def _follows_seed(key: str, runs: Sequence[Run]) -> bool:
    """Whether an option is the run's seed once more, as data.seed and method.seed are in a resolved config."""
    return key.endswith(".seed") and all(run.config.get(key) == str(run.record["seed"]) for run in runs)


def _counts(skipped: Sequence[str]) -> str:
    states = Counter(line.split(" is ")[1].split(":")[0] for line in skipped)
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


def _seeds(experiment: Experiment) -> str:
    seeds = sorted(run.record["seed"] for run in experiment.runs)
    return f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"


def write(root: Path, out: Path, papers: Sequence[Path]) -> str:
    """Write the report of all runs below `root` into `out`; the Markdown text is returned.

    Raises:
        UserError: nothing to report, or a damaged file, which is named.
    """
    runs, skipped = collect(root)
    slugs = sorted({slug for run in runs if (slug := run.record.get("paper"))})
    known = [path for slug in slugs if (path := tables.find_paper(slug)) is not None]
    given = {path.resolve(): path for path in (*known, *papers)}
    printed = [item for path in given.values() for item in tables.read_paper(path)]
    sections, text, latex = [], ["# Results", ""], []
    groups = experiments(runs)
    for group in groups:
        record = group.runs[0].record
        method, inlier = record["method"], group.cells[0].inlier if group.cells else ""
        pairs = [cell for cell in group.cells if cell.out != cell.inlier]
        main = tables.pivot(pairs)
        beside = tables.beside(group.cells, printed, method)
        meta = f"{method}, trained on {inlier}, {_seeds(group)}"
        sentences = page.verdict(group.cells)
        text += [
            f"## {group.name}",
            "",
            f"{meta}. {' '.join(sentences)}",
            "",
            f"AUROC, {_protocol(group.cells)}:",
            "",
            tables.markdown(main),
        ]
        text += (
            ["Beside the printed numbers (S importance samples):", "", tables.markdown(beside)] if beside.lines else []
        )
        latex += [f"% {group.name}: AUROC, {meta}", tables.latex(main)]
        pages = sorted((run.record["seed"], run.folder / "report.html") for run in group.runs)
        links = [(seed, Path(os.path.relpath(path, out)).as_posix()) for seed, path in pages if path.is_file()]
        sections.append(
            {"name": group.name, "meta": meta, "verdict": sentences, "main": main, "beside": beside, "links": links}
        )
    if skipped:
        text += [f"## Not in the tables: {_counts(skipped)}", "", *(f"- {line}" for line in skipped), ""]
    text.append(
        "*Italic*: oracle lines were chosen with OOD data in hand; "
        "controls are one statistic of the image, no model, max(a, 1 - a)."
    )
    rows = [row._replace(experiment=group.name) for group in groups for run in group.runs for row in run.rows]
    methods = {group.name: group.runs[0].record["method"] for group in groups}
    cells = [cell for group in groups for cell in group.cells]
    html = page.render(
        "report.html", title="Results", sections=sections, skipped=skipped, counts=_counts(skipped), runs=len(runs)
    )
    markdown = "\n".join(text) + "\n"
    write_text(out / "results.csv", tables.as_csv(rows, printed, methods))
    write_text(out / "summary.csv", tables.as_csv(cells, printed, methods))
    write_text(out / "report.tex", "\n".join(latex))
    write_text(out / "report.md", markdown)
    write_text(out / "report.html", html)
    return markdown


def _protocol(cells: Sequence[tables.Cell]) -> str:
    return "whole test sets" if tables.main_protocol(cells) == "full" else "equal numbers in and out"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m oodgen.report",
        description="Tables of all finished runs, over seeds, beside the papers' numbers.",
    )
    parser.add_argument("runs", type=Path, help="the folder that runs were written to")
    parser.add_argument(
        "--paper",
        type=Path,
        action="append",
        default=[],
        help="a paper.yaml to compare with; may be repeated (the runs' own papers are found by themselves)",
    )
    parser.add_argument("--out", type=Path, help="where the report goes (default: RUNS/report)")
    options = parser.parse_args(arguments)
    out = options.out or options.runs / "report"
    try:
        print(write(options.runs, out, options.paper))
    except UserError as error:
        print(f"oodgen: {error}", file=sys.stderr)
        return 2
    print(f"page: {out / 'report.html'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
