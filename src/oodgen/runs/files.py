"""Atomic writing of files, hashes of files, and names that are valid for files."""

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from oodgen.errors import UserError

__all__ = ["LogFile", "as_name", "atomic_path", "check_name", "sha256", "write_text"]

LONGEST = 100  # bytes of a name, so that what is put before and after it still makes a file's name


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on leaving without an error, fsync it and rename it to `path`.

    Readers see the old or the new file, never a part of it; on an error nothing is left.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class LogFile(logging.FileHandler):
    """A log file that replaces a link in its place, which may lead anywhere."""

    def _open(self) -> TextIOWrapper:
        if (path := Path(self.baseFilename)).is_symlink():
            path.unlink()
        return super()._open()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_name(name: str, what: str) -> str:
    """A name that may be one of a file, a folder or a column of a CSV; returned as it is.

    Arguments:
        name: The name.
        what: What it names, for the error.

    Raises:
        UserError: it is empty or too long, does not begin with a letter, a digit or an underscore, or holds a slash, a
            comma, a quotation mark or what cannot be printed.
    """
    plain = re.fullmatch(r"""\w[^/\\,"']*""", name) and name.isprintable()
    if not plain or len(name.encode()) > LONGEST:
        raise UserError(
            f"{what}={name!r} must be a single name of at most {LONGEST} bytes: a letter, a digit or _ first, and no "
            "slash, comma or quotation mark"
        )
    return name


def as_name(text: str) -> str:
    """A text cut and its characters replaced by underscores where `check_name` would refuse it."""
    name = "".join(c if c.isprintable() and c not in "/\\,\"'" else "_" for c in text)
    name = name if re.match(r"\w", name) else f"_{name}"
    return name.encode()[: LONGEST - 20].decode(errors="ignore")
