"""The command line by which this program was started."""

import shlex
import sys
from pathlib import Path

__all__ = ["command", "program"]


def program() -> str:
    """The command without its arguments: `oodgen run`, or `python -m oodgen.run`."""
    if sys.argv[0].startswith(("oodgen ", "python -m oodgen ")):  # as `oodgen.__main__` writes it
        return sys.argv[0]
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    return Path(sys.argv[0]).name if module is None else f"python -m {module.name.removesuffix('.__main__')}"


def command() -> str:
    """The command with its arguments, quoted for a shell."""
    return " ".join([program(), *map(shlex.quote, sys.argv[1:])])
