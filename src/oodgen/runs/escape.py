"""Names of files, sets and runs, which are others' words, as text of the medium they are printed in.

HTML needs no function of its own: the pages' templates escape whatever they are given.
"""

import logging
import re
import unicodedata
from copy import copy
from typing import Any

__all__ = ["Formatter", "cell", "latex", "markdown", "terminal"]

MARKDOWN = re.compile(r"[\\`*<|~$&]|\](?=[(\[:])|(?<!\w)_|_(?!\w)|^[#>+-]")
LATEX = {
    **{character: f"\\{character}" for character in "&%_#${}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": "$<$", ">": "$>$", "±": r"$\pm$", "–": "--"},
}
FORMULA = tuple("=+-@\t\r")


def terminal(text: object) -> str:
    r"""One line: line ends, control and other invisible characters become `\n`, `\x1b`, `\u202e`; a byte of a file's
    name that is no text becomes `\xe9`."""
    return "".join(map(_visible, string)) if not (string := str(text)).isprintable() else string


def _visible(character: str) -> str:
    kind = unicodedata.category(character)
    if kind[0] != "C" and kind not in ("Zl", "Zp"):
        return character
    number = ord(character)
    return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else ascii(character)[1:-1]


def markdown(text: object) -> str:
    """One line of GitHub's Markdown, in which no character marks up anything."""
    return MARKDOWN.sub(r"\\\g<0>", terminal(text))


def latex(text: object) -> str:
    """One line of LaTeX's text mode."""
    return "".join(LATEX.get(character, character) for character in terminal(text))


def cell(value: Any) -> Any:
    """A cell of a CSV that no spreadsheet takes for a formula.

    Text that begins with =, +, -, @, a tab or a carriage return, and is no number, has an apostrophe put before it; so
    has text that begins with an apostrophe. So whoever takes one apostrophe off the front has the text again.
    """
    if not isinstance(value, str) or not value.startswith((*FORMULA, "'")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


class Formatter(logging.Formatter):
    """Log lines of the terminal: what is put into a message, such as a file's name, is one line of it."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            record = copy(record)
            record.args = tuple(a if isinstance(a, int | float) else terminal(a) for a in record.args or ())
        return super().format(record)
