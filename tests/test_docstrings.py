"""Docstrings name only what there is: arguments in their Arguments sections, and `oodgen.x.y` in references."""

import ast
import pkgutil
import re
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src"
TREES = {path: ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
CLASSES = {node.name: node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _arguments(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """The arguments of a function or a constructor, inherited ones included."""
    if isinstance(node, ast.FunctionDef):
        given = node.args
        named = (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
        return {argument.arg for argument in named if argument is not None}
    found = {part.target.id for part in node.body if isinstance(part, ast.AnnAssign)}
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return _arguments(part)
    return found.union(*(_arguments(CLASSES[name]) for base in node.bases if (name := ast.unparse(base)) in CLASSES))


def test_arguments_of_docstrings_exist():
    wrong = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                section = re.search(r"^Arguments:\n((?:    .*\n?|\n)*)", text, re.MULTILINE)
                listed = re.findall(r"^    (\w+(?:, \w+)*): ", section[1], re.MULTILINE) if section else []
                unknown = {name for names in listed for name in names.split(", ")} - _arguments(node)
                wrong += [f"{path.relative_to(ROOT)}: {node.name}: {name}" for name in sorted(unknown)]
    assert not wrong


def test_references_of_docstrings_exist():
    names = {name for path in TREES for name in re.findall(r"`(oodgen(?:\.\w+)+)`", path.read_text())}
    for name in names - {"oodgen.plugins"}:  # a group of entry points
        pkgutil.resolve_name(name)
