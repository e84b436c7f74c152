"""Imports point one way: what a module may import of ours, and which modules start without torch."""

import ast
import fnmatch
import subprocess
import sys
from pathlib import Path

import pytest

import oodgen

ROOT = Path(oodgen.__file__).parent
EVERYBODY = ["errors", "files", "noise", "paths"]
# A module may import what its first matching line names; what no line matches is the end of a run, and may import all.
ALLOWED = {
    "errors": [],
    "paths": [],
    "noise": ["errors"],
    "files": ["errors"],
    "nets": EVERYBODY,
    "distributions": EVERYBODY,
    "metrics": ["errors"],
    "scores.*": ["errors", "scores.*"],
    "models.*": [*EVERYBODY, "nets", "distributions", "models.*"],
    "probes.*": [
        *EVERYBODY, "models.density", "models.critic", "models.classifier", "models.ensemble", "probes.*",
    ],
    "usage": [
        *EVERYBODY, "evaluate", "models.density", "models.information", "data.module", "data.resident", "tables",
    ],
    "methods.*": [*EVERYBODY, "models.*", "methods.*", "data.resident"],
    "data.*": [*EVERYBODY, "data.*"],
    "mistakes": EVERYBODY,
    "record": EVERYBODY,
    "values": EVERYBODY,
    "device": EVERYBODY,
    "curves": EVERYBODY,
    "checkpoints": [*EVERYBODY, "data.resident"],
    "look": EVERYBODY,
    "figures": [*EVERYBODY, "look"],
    "comparisons": [*EVERYBODY, "look"],
    "choice": [*EVERYBODY, "tables", "look", "figures", "comparisons"],
    "compare": [*EVERYBODY, "record", "look", "comparisons", "page"],
    "tables": EVERYBODY,
    "places": EVERYBODY,
    "printed": [*EVERYBODY, "tables"],
    "render": [*EVERYBODY, "tables", "printed"],
    "study": [*EVERYBODY, "tables"],
    "settings": ["places"],
    "groups": [*EVERYBODY, "record", "places", "settings", "tables"],
    "ledger": [*EVERYBODY, "settings", "groups", "tables", "printed"],
    "verdict": [*EVERYBODY, "tables"],
    "grid": [*EVERYBODY, "tables", "verdict"],
    "page": [
        *EVERYBODY, "record", "places", "groups", "tables", "printed", "verdict", "look", "figures",
    ],
    "report": [
        *EVERYBODY, "places", "groups", "grid", "keep", "study", "tables", "printed", "ledger", "verdict", "render",
        "comparisons", "page",
    ],
    "evaluate": [
        *EVERYBODY, "metrics", "record", "device", "models.density", "probes.probe", "data.module", "data.resident",
        "tables",
    ],
    "accuracy": [*EVERYBODY, "metrics", "data.module", "scores.classifier", "tables"],
    "attack": [
        *EVERYBODY, "models.density", "models.ensemble", "evaluate", "data.adversarial", "data.module", "data.resident",
    ],
    "toy": [*EVERYBODY, "look", "models.priors"],
    "train": [*EVERYBODY, "checkpoints", "curves", "device", "data.module"],
}  # fmt: skip
# The ends of a run, which only each other may know.
ENDS = [
    "cell", "rehearsal", "parts", "run", "score", "detector", "bench.*", "report", "simple_set", "compare", "correlate",
]  # fmt: skip
STARTS_WITHOUT_TORCH = ["run", "report", "score", "dashboard", "data.__main__", "simple_set", "compare", "correlate"]


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py")) if path.name != "__init__.py"}


def imports(path, module_level=False):
    """The names of what a file imports, "oodgen." and all."""
    tree = ast.parse(path.read_text())
    for node in ast.iter_child_nodes(tree) if module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            # `from oodgen import metrics` imports a module, `from oodgen.files import whole` something in one
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name.removeprefix("oodgen.") in FILES else str(node.module) for name in inside)


def ours(path):
    return {name.removeprefix("oodgen.") for name in imports(path) if name.startswith("oodgen.")}


def matches(module, patterns):
    return any(fnmatch.fnmatch(module, pattern) for pattern in patterns)


def rule(module):
    return next((allowed for pattern, allowed in ALLOWED.items() if fnmatch.fnmatch(module, pattern)), None)


@pytest.mark.parametrize("module", FILES)
def test_arrows_point_one_way(module):
    allowed = rule(module)
    for name in ours(FILES[module]):
        assert name in FILES, f"{module} imports {name}, which is not there"
        if allowed is not None:
            assert matches(name, allowed), f"{module} must not import {name}"
        if not matches(module, ENDS):
            assert not matches(name, ENDS), f"{module} must not import {name}, an end of a run"


def test_the_rules_speak_of_what_is_there():
    patterns = {*ALLOWED, *ENDS, *STARTS_WITHOUT_TORCH}.union(*ALLOWED.values())
    for pattern in patterns:
        assert fnmatch.filter(FILES, pattern), pattern


def test_no_circle():
    graph = {module: ours(path) for module, path in FILES.items()}
    while graph:
        leaves = {module for module, targets in graph.items() if not targets & graph.keys()}
        assert leaves, f"modules that import each other: {sorted(graph)}"
        graph = {module: targets for module, targets in graph.items() if module not in leaves}


def test_methods_and_data_are_reached_through_the_config_alone():
    for module in FILES:
        if not matches(module, ["methods.*", "bench.*"]):
            assert not fnmatch.filter(ours(FILES[module]), "methods.*"), module


def test_models_know_no_lightning_and_scores_no_device():
    for module, path in FILES.items():
        roots = {name.split(".")[0] for name in imports(path)}
        if module.startswith(("models.", "probes.", "scores.")) or module in (
            "nets",
            "distributions",
            "noise",
            "metrics",
        ):
            assert not roots & {"pytorch_lightning", "hydra", "omegaconf", "wandb"}, module
        if module.startswith("scores.") or module == "metrics":
            assert roots <= {"oodgen", "torch", "numpy"} | set(sys.stdlib_module_names), module


@pytest.mark.parametrize("module", STARTS_WITHOUT_TORCH)
def test_help_needs_no_torch(module):
    # followed through our own modules, so that the guilty line is named
    seen, todo = set(), [module]
    while todo:
        current = todo.pop()
        seen.add(current)
        for name in imports(FILES[current], module_level=True):
            assert name.split(".")[0] not in ("torch", "torchvision", "pytorch_lightning"), f"{current} imports {name}"
            inner = name.removeprefix("oodgen.")
            if name.startswith("oodgen.") and inner not in seen:
                todo.append(inner)


def test_help_really_starts_without_torch():
    names = ", ".join(f"oodgen.{module}" for module in STARTS_WITHOUT_TORCH)
    code = f"import sys, {names}; print(sorted({{'torch', 'pytorch_lightning', 'torchvision'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
