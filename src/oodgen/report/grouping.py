"""Find finished runs and group them into experiments: seeds are averaged, one swept option makes a study."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from oodgen.errors import UserError
from oodgen.report import tables
from oodgen.report.overrides import requested_overrides
from oodgen.runs import locations, record, results
from oodgen.runs.documents import load_yaml
from oodgen.runs.files import check_name

__all__ = [
    "Experiment",
    "Run",
    "Unfinished",
    "count_states",
    "describe_samples",
    "describe_test_sets",
    "experiments",
    "find_runs",
    "read_config",
    "trained_against",
    "warnings",
]

# Options, including all below them, in which runs of one experiment may differ. Options that repeat the seed are found
# by their values.
INCIDENTAL = ("seed", "logger", "runs", "retrain", "notes", "snapshots", "data.root", "device.threads")
# Options of the machine, which affect the last digits at most.
MACHINE = ("device.accelerator", "device.channels_last", "device.compile")
# Parts that some runs of one experiment may lack: sets, probes and scores that later versions added to it.
ADDED = ("data.out.", "probes.", "scores.")
UNSET = "unset"
# The types of what a report reads of record.json, which may be a stranger's; lists are of text.
KINDS: dict[str, Any] = {
    **{"experiment": str | int, "seed": int, "method": str, "paper": str | None},
    **dict.fromkeys(("overrides", "warnings"), list | None),
    **dict.fromkeys(("provenance", "training", "model", "score_seconds"), dict | None),
}
# Scores that use L^{>k} for k > 0.
RATIOS = re.compile(r"oodgen\.scores\.ratio\.(llr.*|DeviatingLevel)")


class Run(NamedTuple):
    """A finished run; one that diverged has no rows."""

    folder: Path
    record: Mapping[str, Any]
    config: Mapping[str, str]
    rows: list[results.Row]

    @property
    def inlier(self) -> str:
        """The name of the inlier set."""
        named = self.config.get("data.inlier.name") or self.config.get("data.inlier._target_", "").rpartition(".")[2]
        return self.rows[0].inlier if self.rows else named


class Unfinished(NamedTuple):
    """An unfinished run: its state and the reason."""

    folder: Path
    state: str
    why: str
    config: Mapping[str, str]

    def as_run(self) -> Run:
        """The run as a `Run` without rows, with a record from its config."""
        names = {"experiment": "name", "method": "paper_method", "paper": "paper"}
        values = {name: self.config.get(key, "") for name, key in names.items()}
        facts: dict[str, Any] = {name: None if value == "None" else value for name, value in values.items()}
        seed = self.config.get("seed", "")
        return Run(self.folder, facts | {"seed": int(seed) if re.fullmatch(r"\d{1,18}", seed) else 0}, self.config, [])


class Experiment(NamedTuple):
    """Runs that differ in their seed, and in a study also in one option.

    Arguments:
        name: Title, also in the column `experiment`.
        key: The option that a study sweeps; "" if there is none.
        runs: Value of the key -> its runs, in the order of the values; "" -> all runs if nothing is swept.
        label: The overrides that distinguish it from the shipped experiment and from other groups, if known.
    """

    name: str
    key: str
    runs: dict[str, list[Run]]
    label: str = ""

    @property
    def members(self) -> list[tuple[str, Run]]:
        """Pairs of the value of the key and a run."""
        return [(setting, run) for setting, runs in self.runs.items() for run in runs]

    @property
    def rows(self) -> list[tuple[str, results.Row]]:
        """Pairs of the value of the key and a row."""
        return [(setting, row._replace(experiment=self.name)) for setting, run in self.members for row in run.rows]

    def cells(self) -> dict[str, list[tables.Cell]]:
        """Value of the key -> means over seeds."""
        return {setting: tables.aggregate(row for value, row in self.rows if value == setting) for setting in self.runs}


def find_runs(root: Path) -> tuple[list[Run], list[Unfinished]]:
    """All finished and all unfinished runs below a folder.

    Raises:
        UserError: there is no such folder, no finished run in it, or a damaged file.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}; give the one that `python -m oodgen.run` writes to")
    runs, unfinished = [], []
    for path in sorted((root / "eval" if (root / "eval").is_dir() else root).rglob("state.json")):
        if _is_training(path.parent) or not any((path.parent / n).exists() for n in ("record.json", "config.yaml")):
            continue
        state = record.read_state(path.parent)
        if state["state"] == "done":
            runs.append(_run(path.parent))
        else:
            about = (state["state"], state["why"] or "", read_config(path.parent))
            unfinished.append(Unfinished(path.parent, *about))
    if not runs:
        others = f" ({count_states(unfinished)})" if unfinished else ""
        raise UserError(
            f"no finished run in {root}{others}; run an experiment first: python -m oodgen.run +experiment=quickstart"
        )
    return runs, unfinished


def count_states(unfinished: Sequence[Unfinished]) -> str:
    """The number of runs in each state, as text."""
    found = Counter(run.state for run in unfinished)
    return ", ".join(f"{count} {state}" for state, count in sorted(found.items()))


def _is_training(folder: Path) -> bool:
    """Whether a directory is runs/train/<fingerprint>, and not runs/eval/train/<hash>."""
    kind, root = folder.resolve().parts[-2], folder.resolve().parts[-3:-2]
    return kind == "train" and root != ("eval",)


def _run(folder: Path) -> Run:
    facts = record.read_json(folder / "record.json")
    for key, kind in KINDS.items():
        value = facts.get(key)
        texts = value if isinstance(value, list) else []
        if not isinstance(value, kind) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{folder / 'record.json'} has no valid {key}; evaluate this run again")
    check_name(facts.get("paper") or "_", f"the paper of {folder}")
    return Run(folder, facts, read_config(folder), results.read(folder / "results.csv"))


def read_config(folder: Path) -> dict[str, str]:
    """The resolved config of a run, flattened to `a.b.c` -> value; empty if there is no config.yaml.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / "config.yaml"
    return dict(_flat((load_yaml(path) if path.exists() else None) or {}))


def _flat(config: Any, prefix: str = "") -> list[tuple[str, str]]:
    if not isinstance(config, dict):
        return [(prefix, str(config))]
    return [pair for key, value in config.items() for pair in _flat(value, f"{prefix}.{key}" if prefix else str(key))]


def describe_samples(config: Mapping[str, str]) -> str:
    """The numbers of samples of a run's bounds, as text; empty if no probe has them.

    Those of L^{>k} are omitted if no score uses k > 0, as for a VAE with one layer.
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


def trained_against(config: Mapping[str, str]) -> list[str]:
    """The names of negative and auxiliary training sets, or the source of the negatives.

    A set that is also an out set is named as there, so that tables can mark it as known to the model.
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
            # derived sets, as inverted ones, contain the config of the original
            layers = [value.rpartition(".")[2] for key, value in about.items() if key.endswith("_target_")]
            against.append(next(same, "_".join(reversed(layers))))
    made = {"uniform": "uniform_noise", "noisy": "noisy training images", "generated": "generated images"}
    source = config.get("method.negatives", "None")
    return against + ([made[source]] if source in made else [])


def describe_test_sets(config: Mapping[str, str], cells: Sequence[tables.Cell]) -> str:
    """The test examples that were scored, as text: whole, limited or balanced sets."""
    limit = config.get("data.limit", "None")
    of = "" if limit == "None" else f", at most {limit} of each"
    if tables.main_protocol(cells) == "balanced":
        return f"equal numbers in and out{of}"
    return f"test sets{of}" if of else "whole test sets"


def warnings(runs: Sequence[Run]) -> list[str]:
    """Warnings of runs that differ in their seed, each once, with its seeds unless all runs have it."""
    seeds_of: dict[str, list[int]] = {}
    for run in runs:
        for sentence in dict.fromkeys(run.record.get("warnings") or ()):
            seeds_of.setdefault(locations.without_directories(sentence), []).append(run.record["seed"])
    found = []
    for sentence, seeds in seeds_of.items():
        prefix = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}: "
        found.append(sentence if len(seeds) == len(runs) else prefix + sentence)
    return found


def experiments(runs: Sequence[Run]) -> list[Experiment]:
    """Group runs by experiment: a study if one option differs, a group for each variant if several do.

    Titles contain the overrides of the commands.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        smoke = " (smoke: random images)" if run.config.get("smoke") == "True" else ""
        groups.setdefault(str(run.record["experiment"]) + smoke, []).append(run)
    found = []
    for name, group in groups.items():
        keys = _differing(group)
        one = len(keys) == 1 and not _added(keys[0], group)
        settings = {run.config.get(keys[0], UNSET) for run in group} if one else set()
        study = {
            setting: [run for run in group if run.config.get(keys[0], UNSET) == setting]
            for setting in sorted(settings, key=tables.natural_order)
        }
        if study and not any(_duplicate_seeds(members) for members in study.values()):
            common = ", ".join(requested_overrides(run.record for run in group if run.rows) or ())
            found.append(Experiment(f"{name} ({common})" if common else name, keys[0], study, common))
            continue
        for label, members in _variants(group, keys).items():
            found.append(Experiment(f"{name} ({label})" if label else name, "", {"": members}, label))
    return found


def _differing(runs: Sequence[Run]) -> list[str]:
    """The options in which runs differ; those of the machine only if runs differ in nothing else."""
    keys = _options(runs, (*INCIDENTAL, *MACHINE))
    distinct = {(run.record["seed"], *(run.config.get(key, UNSET) for key in keys)) for run in runs}
    return keys if len(distinct) == len(runs) else _options(runs, INCIDENTAL)


def _options(runs: Sequence[Run], incidental: Sequence[str]) -> list[str]:
    """The options in which runs differ; of several with equal values in every run only the first.

    The others are interpolations or repetitions of it.
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
    """Group runs by the overrides of their commands, and by differing options if overrides are unknown or equal.

    Runs with the same seed in one group are distinguished by their folder.
    """
    alike: dict[tuple[str, ...] | None, dict[tuple[str, ...], list[Run]]] = {}
    variants: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        variants.setdefault(_label(run, keys), []).append(run)
    for label, members in variants.items():
        alike.setdefault(requested_overrides(run.record for run in members if run.rows), {})[label] = members
    named: dict[str, list[Run]] = {}
    for words, several in alike.items():
        # runs without a config differ in no option
        configured = [run for run in chain(*several.values()) if run.config]
        distinct = keys if words is None else [key for key in _differing(configured) if not _added(key, configured)]
        for run in chain(*several.values()):
            label = _label(run, distinct if len(several) > 1 or words is None else ())
            named.setdefault(", ".join(dict.fromkeys((*(words or ()), *label))), []).append(run)
    found: dict[str, list[Run]] = {}
    for name, members in named.items():
        twice = _duplicate_seeds(members)
        for run in members:
            parts = [name, run.folder.name] if run.record["seed"] in twice else [name]
            found.setdefault(", ".join(filter(None, parts)), []).append(run)
    return found


def _label(run: Run, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{key}={run.config[key]}" for key in sorted(keys) if key in run.config)


def _added(key: str, runs: Sequence[Run]) -> bool:
    """Whether runs differ in an option only because some lack a set, probe or score that others have."""
    values = {run.config.get(key, UNSET) for run in runs}
    return key.startswith(ADDED) and UNSET in values and len(values) == 2


def _duplicate_seeds(runs: Sequence[Run]) -> set[int]:
    return {seed for seed, count in Counter(run.record["seed"] for run in runs).items() if count > 1}


def _follows_seed(key: str, runs: Sequence[Run]) -> bool:
    """Whether an option repeats the run's seed, as data.seed and method.seed in a resolved config."""
    return key.endswith(".seed") and all(run.config.get(key) == str(run.record["seed"]) for run in runs)
