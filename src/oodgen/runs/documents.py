"""YAML and JSON of runs that others may have written: read as data, within limits of size and depth."""

import json
from pathlib import Path
from typing import Any, ClassVar

import yaml

from oodgen.errors import UserError

__all__ = ["load_json", "load_yaml", "read_text"]

SIZE = 2**18  # bytes; the largest of ours, a paper's printed numbers, has 74 kB
DEPTH = 40  # collections within collections; a run's config has nine
DIGITS = 100  # of a whole number
CORE = ("null", "bool", "int", "float", "str", "seq", "map")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Builds what JSON has too, and nothing else; a date is text."""

    yaml_constructors: ClassVar = {
        tag: build
        for tag, build in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in CORE
    }

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        _check_digits(node.value)
        return self.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_yaml_str)


def load_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        UserError: it cannot be read, is no YAML of plain data, too large or too deep, or holds an alias, which no run
            writes and which a few lines of could stand for more than any memory holds.
    """
    try:
        text, depth = read_text(path), 0
        for event in yaml.parse(text, _Loader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it holds the alias *{event.anchor}, which no run writes")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH:
                raise ValueError(f"it is more than {DEPTH} levels deep")
        return yaml.load(text, _Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from error


def load_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it cannot be read, is no JSON, too large or too deep.
    """
    try:
        content = json.loads(read_text(path), parse_int=lambda digits: int(_check_digits(digits)))
        level = [content]
        for _ in range(DEPTH):
            level = [item for value in level for item in _items(value)]
        if any(isinstance(value, list | dict) for value in level):
            raise RecursionError
        return content
    except RecursionError as error:
        raise UserError(f"cannot read {path}: it is more than {DEPTH} levels deep") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def _check_digits(number: str) -> str:
    if len(number) > DIGITS:
        raise ValueError(f"it holds a number of {len(number):,} digits")
    return number


def _items(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def read_text(path: Path, size: int = SIZE) -> str:
    """The text of a regular file of at most `size` bytes; a ValueError for any other."""
    if not path.is_file():  # nor a pipe or a device, which may have no end
        raise ValueError("it is not a regular file" if path.exists() else "there is no such file")
    with path.open("rb") as file:
        content = file.read(size + 1)
    if len(content) > size:
        raise ValueError(f"it has more than {size:,} bytes")
    return content.decode("utf-8")
