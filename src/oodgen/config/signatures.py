"""Signatures and base classes of classes and functions, read from their source without importing them (or torch)."""

import ast
import collections.abc
import importlib.util
import inspect
import pathlib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import Any

__all__ = [
    "EMPTY",
    "UNKNOWN",
    "Argument",
    "Function",
    "Thing",
    "arguments",
    "definition",
    "find_target",
    "has",
    "is_protocol",
    "members",
    "method",
    "public",
    "resolve_name",
]

UNKNOWN: Any = object()  # a default that is not a literal, or a missing annotation
MODULES = {"typing": typing, "collections.abc": collections.abc, "pathlib": pathlib}
BUILTINS: dict[str, Any] = {kind.__name__: kind for kind in (int, float, bool, str, list, tuple, dict, type, object)}
# Base classes of other packages without arguments.
EMPTY = ("abc.ABC", "torch.nn.Module", "pytorch_lightning.LightningModule", "pytorch_lightning.LightningDataModule")


@dataclass(frozen=True)
class Argument:
    """The type of an argument (UNKNOWN if not annotated) and its default (`empty` if there is none)."""

    hint: Any
    default: Any = inspect.Parameter.empty


@dataclass(frozen=True)
class Function:
    """A top-level function of a module."""

    name: str
    source: "Source"
    node: ast.FunctionDef

    @property
    def returns(self) -> Any:
        return self.source.type(self.node.returns)


# A class is represented by a stand-in with the name, module and bases of the real one.
Thing = type | Function


class Source:
    """The source of a module, with its definitions and imports."""

    def __init__(self, name: str, path: Path, packages: frozenset[str]) -> None:
        self.name, self.packages = name, packages
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.nodes: dict[str, ast.stmt] = {}
        self.imported: dict[str, str] = {}
        self.public: frozenset[str] | None = None  # __all__
        body = ast.parse(path.read_bytes(), str(path)).body
        for node in body:  # including `if TYPE_CHECKING:`
            self._read(node.body if isinstance(node, (ast.If, ast.Try)) else [node])

    def _read(self, body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self.imported[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                if node.level:
                    parts = self.package.split(".")
                    module = ".".join(filter(None, (*parts[: len(parts) - node.level + 1], module)))
                self.imported |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
            elif isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                self.nodes[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.nodes[node.targets[0].id] = node
                if node.targets[0].id == "__all__":
                    self.public = frozenset(_literal(node.value, ()))

    def thing(self, name: str) -> Any:
        """The object of a name of this module: the stand-in of a class, a Function, a type; UNKNOWN if not found."""
        node = self.nodes.get(name)
        if isinstance(node, ast.ClassDef):
            return _stand_in(self, name)
        if isinstance(node, ast.FunctionDef):
            return Function(name, self, node)
        if isinstance(node, ast.Assign):
            return self.type(node.value)
        return (
            resolve_name(self.imported[name], self.packages) if name in self.imported else BUILTINS.get(name, UNKNOWN)
        )

    def type(self, node: ast.expr | None) -> Any:
        """The type of an annotation; UNKNOWN if it is missing or not supported."""
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                return self.type(ast.parse(node.value, mode="eval").body)
            return type(None) if node.value is None else node.value
        if isinstance(node, ast.Name):
            return self.thing(node.id)
        if isinstance(node, ast.Attribute):
            head, *rest = ast.unparse(node).split(".")
            return (
                resolve_name(".".join((self.imported[head], *rest)), self.packages)
                if head in self.imported
                else UNKNOWN
            )
        if isinstance(node, ast.BinOp):
            return _union((self.type(node.left), self.type(node.right)))
        if isinstance(node, ast.List):
            return [self.type(part) for part in node.elts]
        if not isinstance(node, ast.Subscript):
            return UNKNOWN
        origin = self.type(node.value)
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if origin is typing.Literal:
            return typing.Literal[tuple(_literal(part, UNKNOWN) for part in parts)]
        if origin is typing.Annotated:
            further = (_literal(part, None) or self.type(part) for part in parts[1:])
            return typing.Annotated[(self.type(parts[0]), *further)]
        inner = [self.type(part) for part in parts]
        if origin in (typing.Union, typing.Optional):
            return _union((*inner, *([type(None)] if origin is typing.Optional else [])))
        if UNKNOWN in inner or origin is UNKNOWN:
            return origin
        return origin[tuple(inner)]


def _union(kinds: typing.Iterable[Any]) -> Any:
    kinds = list(kinds)
    return UNKNOWN if UNKNOWN in kinds else reduce(or_, kinds)


def _literal(node: ast.expr, otherwise: Any) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return otherwise


@cache
def _read_source(module: str, packages: frozenset[str]) -> Source | None:
    """The source of a module of one of the packages; None for others, or if there is none."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top) if top in packages else None  # for a top-level name this imports nothing
    for home in map(Path, (spec and spec.submodule_search_locations) or ()):
        inside = home.joinpath(*rest)
        path = next(filter(Path.is_file, (inside / "__init__.py", inside.with_name(f"{inside.name}.py"))), None)
        if path is not None and path.is_relative_to(home):
            return Source(module, path, packages)
    if spec is not None and not rest and not spec.submodule_search_locations and spec.origin:
        return Source(module, Path(spec.origin), packages)  # a package of one file
    return None


def resolve_name(name: str, packages: frozenset[str]) -> Any:
    """The object of a dotted name; of other packages a class without bases."""
    module, _, last = name.rpartition(".")
    if module in MODULES:
        return getattr(MODULES[module], last, UNKNOWN)
    if name.partition(".")[0] not in packages:
        return _foreign_class(name)
    source = _read_source(module, packages)
    return UNKNOWN if source is None else source.thing(last)


def find_target(name: str, packages: frozenset[str]) -> Thing | None:
    """The class or function that a module of these packages defines or imports under a dotted name."""
    found = resolve_name(name, packages)
    return found if isinstance(found, Function) or (isinstance(found, type) and hasattr(found, "source")) else None


def definition(thing: Thing) -> tuple[str, str]:
    """The module and the name of a class or function."""
    return (thing.source.name, thing.name) if isinstance(thing, Function) else (thing.__module__, thing.__name__)


@cache
def _foreign_class(name: str) -> type:
    module, _, last = name.rpartition(".")
    return type(last, (), {"__module__": module})


@cache
def _stand_in(source: Source, name: str) -> type:
    node = typing.cast(ast.ClassDef, source.nodes[name])
    bases = [source.type(base.value if isinstance(base, ast.Subscript) else base) for base in node.bases]
    content = {
        "__module__": source.name,
        "source": source,
        "node": node,
        "protocol": typing.Protocol in bases,
        # whether every base is known
        "known": all(base is typing.Protocol or isinstance(base, type) for base in bases),
    }
    return type(name, tuple(base for base in bases if isinstance(base, type) and _ours_or_foreign(base)), content)


def _ours_or_foreign(base: type) -> bool:
    return base.__module__ not in (*MODULES, "builtins")


def public(module: str, packages: frozenset[str]) -> list[str]:
    """The names in `__all__` of a module."""
    source = _read_source(module, packages)
    return sorted(source.public or ()) if source else []


def members(kind: type) -> list[str]:
    """The names of the methods and attributes in the body of a class."""
    found = []
    for node in vars(kind)["node"].body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        found.append(getattr(node, "name", None) or getattr(target, "id", None))
    return [name for name in found if name]


def has(kind: type, name: str) -> bool:
    """Whether a class or a base of it has a method or an attribute of this name."""
    return any(name in members(one) for one in kind.__mro__ if "node" in vars(one))


def is_protocol(kind: type) -> bool:
    return bool(vars(kind).get("protocol"))


def method(kind: type, name: str) -> Function | None:
    """A method of a class or of its bases, or None."""
    for base in kind.__mro__:
        for node in getattr(base, "node", ast.Module([], [])).body if "node" in vars(base) else ():
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return Function(name, vars(base)["source"], node)
    return None


@cache
def arguments(thing: Thing) -> Mapping[str, Argument] | None:
    """The arguments by name, without self, `**` for arbitrary keywords; None if the source does not determine them."""
    if isinstance(thing, Function):
        return _function_arguments(thing)
    for base in thing.__mro__:
        if f"{base.__module__}.{base.__name__}" in EMPTY:
            continue
        if "node" not in vars(base):
            return {} if base is object else None
        node = vars(base)["node"]
        if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
            return _dataclass_arguments(thing)
        made = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
        if made is not None:
            return dict(list(_function_arguments(Function("__init__", vars(base)["source"], made)).items())[1:])
    return {}


def _function_arguments(function: Function) -> dict[str, Argument]:
    given, source = function.node.args, function.source
    empty = inspect.Parameter.empty
    positional = [*given.posonlyargs, *given.args]
    defaults: list[Any] = [*[None] * (len(positional) - len(given.defaults)), *given.defaults, *given.kw_defaults]
    found = {
        node.arg: Argument(source.type(node.annotation), empty if default is None else _literal(default, UNKNOWN))
        for node, default in zip([*positional, *given.kwonlyargs], defaults, strict=True)
    }
    return found | ({"**": Argument(Any, UNKNOWN)} if given.kwarg else {})


def _dataclass_arguments(kind: type) -> dict[str, Argument]:
    """The fields of a dataclass, those of its bases first."""
    found = {}
    for base in reversed([base for base in kind.__mro__ if "node" in vars(base)]):
        for node in vars(base)["node"].body:
            if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
                hint = vars(base)["source"].type(node.annotation)
                value = inspect.Parameter.empty if node.value is None else _default(node.value)
                found[ast.unparse(node.target)] = Argument(hint, value)
    return found


def _default(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):  # field(default=...)
        given = next((keyword.value for keyword in node.keywords if keyword.arg == "default"), None)
        return UNKNOWN if given is None else _literal(given, UNKNOWN)
    return _literal(node, UNKNOWN)
