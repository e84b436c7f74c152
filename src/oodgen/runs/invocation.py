"""The command line by which this program was started, and the whole numbers that one takes."""

import shlex
import sys
from argparse import Namespace
from pathlib import Path

from oodgen.errors import UserError

__all__ = ["check_ranges", "command", "program"]


def program() -> str:
    """The command without its arguments: `oodgen run`, or `python -m oodgen.run`."""
    if sys.argv[0].startswith(("oodgen ", "python -m oodgen ")):  # as `oodgen.__main__` writes it
        return sys.argv[0]
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    return Path(sys.argv[0]).name if module is None else f"python -m {module.name.removesuffix('.__main__')}"


def command() -> str:
    """The command with its arguments, quoted for a shell."""
    return " ".join([program(), *map(shlex.quote, sys.argv[1:])])


def check_ranges(options: Namespace, **ranges: tuple[int, int]) -> None:
    """Raise UserError if an option of a command lies outside of its range; both ends belong to it, None passes."""
    for name, (low, high) in ranges.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"--{name} {value} is not a whole number from {low} to {high}")
