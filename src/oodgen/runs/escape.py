"""Escaping of untrusted text (names of files, sets and runs) for terminal, HTML, Markdown, LaTeX, CSV and figures."""

import logging
import re
import unicodedata
from copy import copy
from typing import Any

from markupsafe import Markup

__all__ = ["Formatter", "cell", "html", "latex", "markdown", "plot", "terminal"]

MARKDOWN = re.compile(r"[\\`*|~$&]|\](?=[(\[:])|(?<!\w)_|_(?!\w)|^[#>+-]")
LATEX = {
    **{character: f"\\{character}" for character in "&%_#${}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": "$<$", ">": "$>$", "±": r"$\pm$", "–": "--"},
}
FORMULA = tuple("=+-@\t\r")


def terminal(text: object) -> str:
    r"""One line: line breaks, control and invisible characters become `\n`, `\x1b`, `\u202e`; undecodable bytes of file
    names become `\xe9`."""
    return "".join(map(_visible, string)) if not (string := str(text)).isprintable() else string


def _visible(character: str) -> str:
    kind = unicodedata.category(character)
    if kind[0] != "C" and kind not in ("Zl", "Zp"):
        return character
    number = ord(character)
    return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else ascii(character)[1:-1]


def html(text: object) -> Markup:
    """HTML text, in lines as it is; what is HTML already stays."""
    return text if isinstance(text, Markup) else Markup("\n").join(map(terminal, str(text).split("\n")))


def markdown(text: object) -> str:
    """One line of GitHub Markdown without markup; `<` is an entity, since not every renderer takes it escaped."""
    return MARKDOWN.sub(r"\\\g<0>", terminal(text)).replace("<", "&lt;")


def latex(text: object) -> str:
    r"""One line of LaTeX text; what would be an option of the `\\` or the rule before it is in braces."""
    found = "".join(LATEX.get(character, character) for character in terminal(text))
    return f"{{{found[0]}}}{found[1:]}" if found.startswith(("[", "*")) else found


def plot(text: object) -> str:
    """One line of matplotlib's text, without mathematics."""
    return terminal(text).replace("$", r"\$")


def cell(value: Any) -> Any:
    """A CSV cell that no spreadsheet interprets as a formula.

    Text that begins with =, +, -, @, a tab or a carriage return and is no number, or with an apostrophe, is prefixed by
    an apostrophe; removing one apostrophe restores it.
    """
    if not isinstance(value, str) or not value.startswith((*FORMULA, "'")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


class Formatter(logging.Formatter):
    """Log formatter for the terminal, which escapes the arguments of messages by `terminal`."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            record = copy(record)
            record.args = tuple(a if isinstance(a, int | float) else terminal(a) for a in record.args or ())
        return super().format(record)
