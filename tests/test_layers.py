"""Imports point one way between the folders, and some modules start without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import oodgen

ROOT = Path(oodgen.__file__).parent
# A folder or module may import itself, `errors`, `options`, and what stands here.
ARROWS = {
    "errors options noise metrics __main__": "",
    "former": "__main__",
    "runs scores": "",
    "plots": "runs",
    "report": "runs plots",
    "models": "noise",
    "probes": "noise models",
    "data": "noise runs",
    "methods": "noise models data",
    "training": "noise runs data",
    "config": "runs models probes data training",
    "evaluation": "noise metrics runs models probes scores data training config",
    "experiment": "runs data training config evaluation report",
    "detector": "noise runs probes data training config evaluation",
    "score": "runs data config detector",
    "run": "runs config report experiment",
    "papers": "noise runs plots report models data config evaluation detector",
    "bench": "noise metrics runs models probes scores data methods training config",
}
STARTS_WITHOUT_TORCH = [
    *("run", "score", "report.__main__", "report.wandb_workspace", "data.__main__"),
    *("papers.simple_set", "papers.reconstructions", "papers.layer_correlation"),
]


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


def folder(module):
    return module.partition(".")[0]


@pytest.mark.parametrize("module", FILES)
def test_arrows_point_one_way(module):
    allowed = next(targets.split() for names, targets in ARROWS.items() if folder(module) in names.split())
    for name in ours(FILES[module]):
        assert name in FILES, f"{module} imports {name}, which is not there"
        assert folder(name) in (*allowed, folder(module), "errors", "options"), f"{module} must not import {name}"


def test_every_arrow_is_used_and_none_leads_back():
    used = {(folder(module), folder(name)) for module, path in FILES.items() for name in ours(path)}
    seen = set()
    for names, targets in ARROWS.items():
        assert seen.issuperset(targets.split()), f"{names} come before what they import"
        for target in targets.split():
            assert any((name, target) in used for name in names.split()), f"{names} import nothing of {target}"
        seen.update(names.split())
    assert seen == {folder(module) for module in FILES}


def test_the_root_is_small():
    assert len([path for path in ROOT.glob("*.py") if path.name != "__init__.py"]) <= 10


def test_no_circle():
    graph = {module: ours(path) for module, path in FILES.items()}
    while graph:
        leaves = {module for module, targets in graph.items() if not targets & graph.keys()}
        assert leaves, f"modules that import each other: {sorted(graph)}"
        graph = {module: targets for module, targets in graph.items() if module not in leaves}


def test_models_know_no_lightning_and_scores_no_device():
    for module, path in FILES.items():
        roots = {name.split(".")[0] for name in imports(path)}
        if module.startswith(("models.", "probes.", "scores.")) or module in ("noise", "metrics"):
            assert not roots & {"pytorch_lightning", "hydra", "omegaconf", "wandb"}, module
        if module.startswith("scores.") or module == "metrics":
            early = {name.split(".")[0] for name in imports(path, module_level=True)}
            # what one score needs is imported when it is fitted
            late = {"scipy", "sklearn"} if module.startswith("scores.") else set()
            for found, more in ((early, set()), (roots, late)):
                assert found <= {"oodgen", "torch", "numpy"} | more | set(sys.stdlib_module_names), module


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
