"""Finished runs, and which belong together: seeds are averaged, one swept option is a study, others stand apart."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from oodgen.errors import UserError
from oodgen.report import tables
from oodgen.report.overrides import asked
from oodgen.runs import locations, record, results

__all__ = [
    "Experiment",
    "Run",
    "Unfinished",
    "collect",
    "contrast",
    "counts",
    "experiments",
    "extent",
    "read_config",
    "sampling",
    "warnings",
]

# Options that may differ between two runs of one experiment without making them different experiments: each is named by
# its place in the config and stands for all below it. What follows `seed` is found by its value.
INCIDENTAL = ("seed", "logger", "runs", "retrain", "notes", "snapshots", "data.root", "device.threads")
# Where and how fast, which shows in the last digits at most; precision shows in more.
MACHINE = ("device.accelerator", "device.channels_last", "device.compile")
UNSET = "unset"
# What asks for L^{>k}, whether it names a k or not.
RATIOS = re.compile(r"oodgen\.scores\.ratio\.(llr.*|DeviatingLevel)")


class Run(NamedTuple):
    """One finished run; one that diverged has no rows."""

    folder: Path
    record: Mapping[str, Any]
    config: Mapping[str, str]
    rows: list[results.Row]

    @property
    def inlier(self) -> str:
        """The name of the set that it was trained on."""
        named = self.config.get("data.inlier.name") or self.config.get("data.inlier._target_", "").rpartition(".")[2]
        return self.rows[0].inlier if self.rows else named


class Unfinished(NamedTuple):
    """A run that is not finished, and why."""

    folder: Path
    state: str
    why: str
    config: Mapping[str, str]

    def as_run(self) -> Run:
        """The run without rows, with the record that it would have."""
        names = {"experiment": "name", "method": "paper_method", "paper": "paper"}
        said = {name: self.config.get(key, "") for name, key in names.items()}
        facts: dict[str, Any] = {name: None if value == "None" else value for name, value in said.items()}
        return Run(self.folder, facts | {"seed": int(self.config.get("seed", 0))}, self.config, [])


class Experiment(NamedTuple):
    """Runs that differ in their seed, and in a study also in one option.

    Arguments:
        name: Its title, which also stands in the column `experiment`.
        key: The option that a study sweeps; "" where there is none.
        runs: Value of the key -> its runs, in the order of the values; "" -> all runs, where nothing is swept.
        label: What sets it apart from the shipped experiment, as far as the commands are known, and from others here.
    """

    name: str
    key: str
    runs: dict[str, list[Run]]
    label: str = ""

    @property
    def members(self) -> list[tuple[str, Run]]:
        """Every run with its value of the key."""
        return [(setting, run) for setting, runs in self.runs.items() for run in runs]

    @property
    def rows(self) -> list[tuple[str, results.Row]]:
        """Every row with its value of the key."""
        return [(setting, row._replace(experiment=self.name)) for setting, run in self.members for row in run.rows]

    def cells(self) -> dict[str, list[tables.Cell]]:
        """Value of the key -> its means over seeds."""
        return {setting: tables.aggregate(row for value, row in self.rows if value == setting) for setting in self.runs}


def collect(root: Path) -> tuple[list[Run], list[Unfinished]]:
    """All finished runs below a folder, and those that are not.

    Raises:
        UserError: there is no such folder, no finished run in it, or a damaged file.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}; give the one that `python -m oodgen.run` writes to")
    runs, unfinished = [], []
    for path in sorted((root / "eval" if (root / "eval").is_dir() else root).rglob("state.json")):
        if _is_training(path.parent) or not any((path.parent / n).exists() for n in ("record.json", "config.yaml")):
            continue
        state = record.read_json(path)
        if state.get("state") == "done":
            runs.append(_run(path.parent))
        else:
            about = (state.get("state", "without a state"), state.get("why") or "", read_config(path.parent))
            unfinished.append(Unfinished(path.parent, *about))
    if not runs:
        others = f" ({counts(unfinished)})" if unfinished else ""
        raise UserError(
            f"no finished run in {root}{others}; run an experiment first: python -m oodgen.run +experiment=quickstart"
        )
    return runs, unfinished


def counts(unfinished: Sequence[Unfinished]) -> str:
    """How many runs stand at which state, in words."""
    found = Counter(run.state for run in unfinished)
    return ", ".join(f"{count} {state}" for state, count in sorted(found.items()))


def _is_training(folder: Path) -> bool:
    """Whether a run's directory is runs/train/<fingerprint>, and not runs/eval/train/<hash>."""
    kind, root = folder.resolve().parts[-2], folder.resolve().parts[-3:-2]
    return kind == "train" and root != ("eval",)


def _run(folder: Path) -> Run:
    facts = record.read_json(folder / "record.json")
    if not {"experiment", "seed", "method"} <= facts.keys():
        raise UserError(f"{folder / 'record.json'} lacks experiment, seed or method; evaluate this run again")
    return Run(folder, facts, read_config(folder), results.read(folder / "results.csv"))


def read_config(folder: Path) -> dict[str, str]:
    """The resolved config of a run as `a.b.c` -> value, in its order; empty where there is no config.yaml.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / "config.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), loader) if path.exists() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return dict(_flat(config or {}))


def _flat(config: Any, prefix: str = "") -> list[tuple[str, str]]:
    if not isinstance(config, dict):
        return [(prefix, str(config))]
    return [pair for key, value in config.items() for pair in _flat(value, f"{prefix}.{key}" if prefix else str(key))]


def sampling(config: Mapping[str, str]) -> str:
    """How many samples a run's bounds took, in words; empty where no probe says so.

    Those of L^{>k} are of no matter to a run none of whose scores asks for k > 0, such as that of a VAE with one layer.
    """
    deep = any(
        value != "0" if key.endswith(".k") else RATIOS.fullmatch(value)
        for key, value in config.items()
        if key.startswith("scores.")
    )
    probes = [key.removesuffix(".samples") for key in config if key.startswith("probes.") and key.endswith(".samples")]
    counts = dict.fromkeys((config[f"{p}.samples"], config.get(f"{p}.samples_k", UNSET)) for p in probes)
    words = [f"S = {s}" if not deep or k in (s, UNSET) else f"S = {s} for l>0 and {k} for l>k" for s, k in counts]
    return " or ".join(words)


def contrast(config: Mapping[str, str]) -> list[str]:
    """What a run was trained against: its negative and auxiliary sets, or where its negatives came from.

    A set that is an out set too has its name there, so that nobody takes it for an unknown one.
    """
    sets: dict[str, dict[str, str]] = {}
    for key, value in config.items():
        if found := re.fullmatch(r"(data\.(?:out\.[^.]+|auxiliary\.[^.]+|negative))\.(.+)", key):
            sets.setdefault(found[1], {})[found[2]] = value
    outs = {name.removeprefix("data.out."): about for name, about in sets.items() if name.startswith("data.out.")}
    against = []
    for name, about in sets.items():
        if not name.startswith("data.out.") and "_target_" in about:
            same = (out for out, other in outs.items() if other == about)
            # a set made of another, such as an inverted one, holds that one below it
            layers = [value.rpartition(".")[2] for key, value in about.items() if key.endswith("_target_")]
            against.append(next(same, "_".join(reversed(layers))))
    made = {"uniform": "uniform_noise", "noisy": "noisy training images", "generated": "generated images"}
    source = config.get("method.negatives", "None")
    return against + ([made[source]] if source in made else [])


def extent(config: Mapping[str, str], cells: Sequence[tables.Cell]) -> str:
    """Of which examples the numbers are, in words: a limited run has no whole test sets."""
    limit = config.get("data.limit", "None")
    of = "" if limit == "None" else f", at most {limit} of each"
    if tables.main_protocol(cells) == "balanced":
        return f"equal numbers in and out{of}"
    return f"test sets{of}" if of else "whole test sets"


def warnings(runs: Sequence[Run]) -> list[str]:
    """What runs that differ in their seed warn of, each sentence once, with its seeds where not all of them say so."""
    said: dict[str, list[int]] = {}
    for run in runs:
        for sentence in dict.fromkeys(run.record.get("warnings") or ()):
            said.setdefault(locations.bare(sentence), []).append(run.record["seed"])
    found = []
    for sentence, seeds in said.items():
        who = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}: "
        found.append(sentence if len(seeds) == len(runs) else who + sentence)
    return found


def experiments(runs: Sequence[Run]) -> list[Experiment]:
    """Runs grouped by experiment: a study if one option differs, a group for each variant if several do.

    A title names what the commands asked for, so that a changed option shows even in a run that stands alone.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        smoke = " (smoke: random images)" if run.config.get("smoke") == "True" else ""
        groups.setdefault(str(run.record["experiment"]) + smoke, []).append(run)
    found = []
    for name, group in groups.items():
        keys = _differing(group)
        settings = {run.config.get(keys[0], UNSET) for run in group} if len(keys) == 1 else set()
        study = {
            setting: [run for run in group if run.config.get(keys[0], UNSET) == setting]
            for setting in sorted(settings, key=tables.natural)
        }
        if study and not any(_twice(members) for members in study.values()):
            common = ", ".join(asked(run.record for run in group if run.rows) or ())
            found.append(Experiment(f"{name} ({common})" if common else name, keys[0], study, common))
            continue
        for label, members in _variants(group, keys).items():
            found.append(Experiment(f"{name} ({label})" if label else name, "", {"": members}, label))
    return found


def _differing(runs: Sequence[Run]) -> list[str]:
    """The options in which runs differ; how it was computed is one only where nothing else tells two runs apart."""
    keys = _options(runs, (*INCIDENTAL, *MACHINE))
    told = {(run.record["seed"], *(run.config.get(key, UNSET) for key in keys)) for run in runs}
    return keys if len(told) == len(runs) else _options(runs, INCIDENTAL)


def _options(runs: Sequence[Run], incidental: Sequence[str]) -> list[str]:
    """The options in which runs differ; of several with the same value in every run only the config's first.

    Those others are interpolations of it, or parts of the config that repeat each other.
    """
    ignored = tuple(f"{key}." for key in incidental)
    keys = [
        key for key in dict.fromkeys(key for run in runs for key in run.config) if not f"{key}.".startswith(ignored)
    ]
    columns: dict[tuple[str, ...], str] = {}
    for key in keys:
        values = tuple(run.config.get(key, UNSET) for run in runs)
        if len(set(values)) > 1 and not _follows_seed(key, runs):
            columns.setdefault(values, key)
    return list(columns.values())


def _variants(runs: Sequence[Run], keys: Sequence[str]) -> dict[str, list[Run]]:
    """Runs by what their commands asked for, and by the options that differ, as far as a run has them, where no command
    is known or several asked for the same; the same seed twice is told apart by the folder."""
    alike: dict[tuple[str, ...] | None, dict[tuple[str, ...], list[Run]]] = {}
    variants: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        variants.setdefault(_label(run, keys), []).append(run)
    for label, members in variants.items():
        alike.setdefault(asked(run.record for run in members if run.rows), {})[label] = members
    named: dict[str, list[Run]] = {}
    for words, several in alike.items():
        # a run whose config is lost differs in no option; the others only in what tells these apart
        told = _differing([run for run in chain(*several.values()) if run.config]) if words is not None else keys
        for run in chain(*several.values()):
            label = _label(run, told if len(several) > 1 or words is None else ())
            named.setdefault(", ".join(dict.fromkeys((*(words or ()), *label))), []).append(run)
    found: dict[str, list[Run]] = {}
    for name, members in named.items():
        twice = _twice(members)
        for run in members:
            parts = [name, run.folder.name] if run.record["seed"] in twice else [name]
            found.setdefault(", ".join(filter(None, parts)), []).append(run)
    return found


def _label(run: Run, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{key}={run.config[key]}" for key in sorted(keys) if key in run.config)


def _twice(runs: Sequence[Run]) -> set[int]:
    return {seed for seed, count in Counter(run.record["seed"] for run in runs).items() if count > 1}


def _follows_seed(key: str, runs: Sequence[Run]) -> bool:
    """Whether an option is the run's seed once more, as data.seed and method.seed are in a resolved config."""
    return key.endswith(".seed") and all(run.config.get(key) == str(run.record["seed"]) for run in runs)
