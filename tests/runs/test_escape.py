"""Whatever a name holds, it is text where it is printed."""

import logging

import matplotlib.text
import pytest

from oodgen.runs import escape


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("photo 图片 é.png", "photo 图片 é.png"),
        ("a\nOUT 0.01", r"a\nOUT 0.01"),
        ("\x1b[31m\x07\r\t", r"\x1b[31m\x07\r\t"),
        ("caf\udce9", r"caf\xe9"),
        ("\u202egnp\u2028\u200b", r"\u202egnp\u2028\u200b"),
    ],
)
def test_a_terminal_gets_one_visible_line(text, shown):
    assert escape.terminal(text) == shown


def test_markdown_marks_nothing_up():
    assert escape.markdown("llr_ada l>0 [1, 2] 4 ± 1 (x)") == "llr_ada l>0 [1, 2] 4 ± 1 (x)"
    assert escape.markdown("<b>|`x`*_a_*[t](u)\\&amp;$") == r"&lt;b>\|\`x\`\*\_a\_\*[t\](u)\\\&amp;\$"
    assert [escape.markdown(text) for text in ("# a", "> a", "- a", "+a")] == [r"\# a", r"\> a", r"\- a", r"\+a"]


def test_latex_sets_every_character():
    assert escape.latex(r"\a{b}_^~#%&$<>±–") == (
        r"\textbackslash{}a\{b\}\_\textasciicircum{}\textasciitilde{}\#\%\&\$$<$$>$$\pm$--"
    )


def test_no_label_opens_an_option_of_latex_or_its_star():
    assert [escape.latex(text) for text in ("[2] a", "*", "a [2]*")] == ["{[}2] a", "{*}", "a [2]*"]


def test_html_keeps_lines_and_what_is_html():
    assert escape.html("a\n<b>&'\u202e\x1b") == r"a" + "\n" + r"&lt;b&gt;&amp;&#39;\u202e\x1b"
    assert escape.html(escape.html("<")) == "&lt;" and escape.html(1.5) == "1.5"


def test_a_figure_has_no_mathematics():
    label = matplotlib.text.Text(text=escape.plot("$\\frac$ $x\x1b"))
    assert label._preprocess_math(label.get_text()) == (r"$\frac$ $x\x1b", False)


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@a", "\t=1", "'=1", "'"])
def test_a_cell_is_no_formula_and_can_be_had_back(text):
    assert escape.cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["a=b", "", "-1.5", "+3e-4", "-inf", -1.5, None])
def test_other_cells_stay(value):
    assert escape.cell(value) == value


def test_what_is_put_into_a_log_line_is_one_line_of_it():
    record = logging.LogRecord("x", logging.INFO, "", 0, "first\n%s %d %.1f", ("a\x1b\nb", 3, 0.5), None)
    assert escape.Formatter("%(message)s").format(record) == "first\na\\x1b\\nb 3 0.5"
    assert record.args == ("a\x1b\nb", 3, 0.5)
