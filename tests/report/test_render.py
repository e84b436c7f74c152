"""Tables written down: the same numbers in every form."""

import math
from pathlib import Path

from oodgen.report import paper_numbers, render, tables
from oodgen.runs import results

NAN = math.nan
PAPER = Path(__file__).parents[2] / "experiments" / "hierarchical_llr" / "paper.yaml"


def row(score, value, out="mnist", seed=0, metric="auroc", protocol="full", low=NAN, high=NAN):
    return results.Row("x", "f" * 8, seed, "fashion_mnist", out, score, metric, value, low, high, protocol, 100, 90)


def many():
    return tables.aggregate(
        [
            row("control:entropy", 0.02, metric="auroc"),
            row("control:entropy", 0.98, metric="separation"),
            row("llr_oracle", 0.97, protocol="oracle"),
            row("llr>10", 0.7),
            row("llr>2", 0.9),
            row("l>0", 0.1),
            row("llr_ada", 0.9001),
            row("l>0", 0.3, out="kmnist"),
            row("l>0", 0.999, protocol="balanced"),
            row("l>0", 0.8, metric="fpr80"),
            row("llr>2", 0.2, metric="fpr80"),
        ]
    )


def test_markdown_and_latex_carry_the_same_numbers():
    table = tables.pivot(many())
    lines = render.markdown(table).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len({len(line) for line in lines}) == 1, "columns are aligned"
    cells = [[text.strip() for text in line.split("|")] for line in lines]
    assert ["", "llr_ada", "**0.900**", "", ""] in cells and "*control:entropy*" in lines[-1]
    latex = render.latex(table)
    assert r"\textbf{0.900}" in latex and r"llr\_ada" in latex and latex.count(r"\midrule") == 3


def test_csv_lists_the_printed_numbers(tmp_path):
    text = render.as_csv([("epoch3", row("llr>1", 0.9))], paper_numbers.read_paper(PAPER), {"x": "hvae"})
    head, line = text.splitlines()
    assert head.split(",") == [*results.Row._fields, "setting", "printed"]
    assert "0.964 (S=1) [hierarchical_llr, table2]; 0.984 (S=250) [hierarchical_llr, table2]; 0.986 (S=1000)" in line
    assert ",epoch3," in line
    (tmp_path / "again.csv").write_text(text)
    assert results.read(tmp_path / "again.csv")[0].value == 0.9


def test_the_terminal_table_is_aligned_and_keeps_to_the_width():
    outs = ["omniglot_inverted", "smallnorb_inverted", *(f"set{i}" for i in range(14))]
    rows = [row(s, 0.001 * i + 0.5, out=o) for i, o in enumerate(outs) for s in ("l>0", "llr_ada")]
    rows += [row("control:total_variation", 0.7, out=o, metric="separation") for o in outs]
    lines = render.terminal(rows).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("llr_ada") for line in lines) == 2, "two blocks"
    dots = [
        [i for i, c in enumerate(line) if c == "."]
        for line in lines
        if line.startswith(("l>0", "llr_ada", "control:t"))
    ]
    assert dots[0] == dots[1] == dots[2]
    assert sum(line.count(" 0.") for line in lines) == 3 * len(outs)


def test_the_terminal_table_leaves_out_the_inlier_itself():
    text = render.terminal([row("l>0", 0.5, out="fashion_mnist"), row("l>0", 0.2)])
    assert "0.200" in text and "0.500" not in text
