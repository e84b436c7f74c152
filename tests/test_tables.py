"""Rows, cells, tables: arithmetic over seeds, what is marked best, what counts as a paper's answer."""

import math
import statistics
from pathlib import Path

import pytest

from oodgen import tables
from oodgen.errors import UserError

NAN = math.nan
PAPER = Path(__file__).parents[1] / "experiments" / "hierarchical_llr" / "paper.yaml"


def row(score, value, out="mnist", seed=0, metric="auroc", protocol="full", low=NAN, high=NAN):
    return tables.Row("x", "f" * 8, seed, "fashion_mnist", out, score, metric, value, low, high, protocol, 100, 90)


def write(path, rows):
    lines = [",".join(tables.Row._fields), *(",".join("" if v != v else str(v) for v in r) for r in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_read_gives_back_what_was_written(tmp_path):
    rows = [row("l>0", 0.25, low=0.2, high=0.3), row("llr>1", 0.75)]
    found = tables.read(write(tmp_path / "results.csv", rows))
    assert found[0] == rows[0]
    assert math.isnan(found[1].low) and found[1][:8] == rows[1][:8]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("experiment,seed\nx,0\n", "fingerprint"),
        (",".join(tables.Row._fields) + "\nx,f,zero,a,b,c,auroc,0.5,,,full,1,1\n", "zero"),
        (",".join(tables.Row._fields) + "\nx,f,0,a,b,c,au", "results.csv"),
        ("", "column"),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path, text, word):
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(UserError, match=r"results\.csv") as error:
        tables.read(tmp_path / "results.csv")
    assert word in str(error.value) and "\n" not in str(error.value)


def test_one_seed_keeps_its_interval_and_several_have_a_deviation():
    (one,) = tables.aggregate([row("l>0", 0.5, low=0.4, high=0.6)])
    assert (one.value, one.low, one.high) == (0.5, 0.4, 0.6) and math.isnan(one.sd)
    values = [0.1, 0.2, 0.6]
    (three,) = tables.aggregate([row("l>0", v, seed=s, low=0.0, high=1.0) for s, v in enumerate(values)])
    assert three.value == pytest.approx(0.3) and three.sd == pytest.approx(statistics.stdev(values))
    assert math.isnan(three.low) and three.seeds == (0, 1, 2)


def test_a_seed_counted_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        tables.aggregate([row("l>0", 0.5), row("l>0", 0.6)])


def test_protocols_are_not_averaged_together():
    cells = tables.aggregate([row("l>0", 0.5), row("l>0", 0.9, protocol="balanced", seed=1)])
    assert sorted(c.value for c in cells) == [0.5, 0.9]


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


def test_scores_then_oracle_then_controls_and_levels_count_as_numbers():
    lines = tables.pivot(many()).lines
    names = [line.entries[0].text for line in lines]
    assert names == ["l>0", "llr>2", "llr>10", "llr_ada", "llr_oracle", "control:entropy"]
    assert [line.kind for line in lines] == ["score"] * 4 + ["oracle", "control"]


def test_a_variant_of_a_score_stands_below_it_and_says_what_it_is():
    scores = ("llr>2", "kl_1", "llr>1 iw", "llr_ada mode", "llr>1", "llr_ada")
    lines = tables.pivot(tables.aggregate([row(s, 0.5) for s in scores])).lines
    assert [li.entries[0].text for li in lines] == ["llr>1", "llr>1 iw", "llr>2", "llr_ada", "llr_ada mode", "kl_1"]
    assert tables.gloss("llr>1 iw") == "ratio: l>1 against l>0, with the importance-weighted l>0"
    assert tables.gloss("llr>1 mine") == tables.gloss("mine iw") == ""


def test_best_is_of_the_honest_scores_and_ties_as_shown_share_it():
    table = tables.pivot(many())
    column = table.head.index("mnist")
    assert {line.entries[0].text for line in table.lines if line.entries[column].best} == {"llr>2", "llr_ada"}
    (best,) = [li for li in tables.pivot(many(), "fpr80").lines if li.entries[1].best]
    assert best.entries[0].text == "llr>2", "a lower false-positive rate is better"


def test_a_control_shows_its_better_direction_and_protocols_do_not_mix():
    table = tables.pivot(many())
    texts = {line.entries[0].text: line.entries[table.head.index("mnist")].text for line in table.lines}
    assert texts["control:entropy"] == "0.980" and texts["l>0"] == "0.100"


def test_an_oracle_line_says_so_whatever_its_score_is_called():
    table = tables.pivot(tables.aggregate([row("llr>2", 0.9, protocol="oracle"), row("llr>2", 0.8)]))
    assert [line.entries[0].text for line in table.lines] == ["llr>2", "llr>2 (oracle)"]


def test_the_paper_answers_with_every_sample_count_once():
    printed = tables.read_paper(PAPER)
    (cell,) = tables.aggregate([row("llr>1", 0.9)])
    found = tables.lookup(printed, cell, "hvae")
    assert [(p.samples, p.value) for p in found] == [("1", 0.964), ("250", 0.984), ("1000", 0.986)]
    (cell,) = tables.aggregate([row("l>0", 0.9)])
    (once,) = tables.lookup(printed, cell, "hvae")
    assert once.value == 0.268 and once.table == "table2, table7"
    (weighted,) = tables.aggregate([row("llr>1 iw", 0.9)])
    assert tables.lookup(printed, weighted, "hvae") == found
    assert not tables.lookup(printed, cell, "glow"), "another method's number is no answer"


def test_the_papers_log_p_is_the_bound():
    (cell,) = tables.aggregate([row("l>0", 0.9, metric="bpd")])
    assert [p.value for p in tables.lookup(tables.read_paper(PAPER), cell, "hvae")] == [0.317]


def paper(tmp_path, **changes):
    cell = {"in": "fashion_mnist", "out": "mnist", "method": "hvae", "score": "llr>1", "metric": "auroc", "value": 98.4}
    cell |= {"role": "own_method", "source": "own", **changes}
    table = {"id": "table1", "unit": "percent", "decimals": 1, "cells": [cell]}
    import yaml

    (tmp_path / "paper.yaml").write_text(yaml.safe_dump({"slug": "p", "tables": [table]}))
    return tables.read_paper(tmp_path / "paper.yaml")


def test_percentages_become_fractions_with_the_printed_decimals(tmp_path):
    (item,) = paper(tmp_path)
    assert item.value == pytest.approx(0.984)
    table = tables.beside(tables.aggregate([row("llr>1", 0.9)]), [item], "hvae")
    assert table.lines[0].entries[-1].text == "0.984"


def test_a_quoted_number_is_called_quoted(tmp_path):
    printed = paper(tmp_path, role="quoted", source="quoted(somebody)")
    table = tables.beside(tables.aggregate([row("llr>1", 0.9)]), printed, "hvae")
    assert table.lines[0].entries[-1].text == "0.984 quoted" and "somebody" in table.lines[0].entries[-1].hint


def test_beside_prefers_equal_numbers_and_shows_only_what_was_printed():
    rows = [row("llr>1", 0.90), row("llr>1", 0.91, protocol="balanced"), row("llr_ada", 0.99)]
    table = tables.beside(tables.aggregate(rows), tables.read_paper(PAPER), "hvae")
    (line,) = table.lines
    assert [e.text for e in line.entries] == [
        *("mnist", "llr>1", "0.910", "0.964 (S=1); 0.984 (S=250); 0.986 (S=1000)")
    ]


def test_other_methods_name_the_source_of_what_they_quote():
    table = tables.elsewhere(tables.read_paper(PAPER), "fashion_mnist", ["mnist"], "hvae")
    lines = {line.entries[1].text: [e.text for e in line.entries] for line in table.lines}
    assert lines["binary_classifier: classifier"][2:] == ["quoted(Ren et al. 2019 [1])", "0.455", "0.505", "0.886"]
    assert not any(name.startswith("hvae:") for name in lines)


@pytest.mark.parametrize("text", ["tables: [1", "a: 1", "- 1", ""])
def test_something_else_than_a_paper_is_named(tmp_path, text):
    (tmp_path / "paper.yaml").write_text(text)
    with pytest.raises(UserError, match=r"paper\.yaml") as error:
        tables.read_paper(tmp_path / "paper.yaml")
    assert "\n" not in str(error.value)


def test_markdown_and_latex_carry_the_same_numbers():
    table = tables.pivot(many())
    lines = tables.markdown(table).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "| llr_ada | **0.900** |" in "\n".join(lines) and "*control:entropy*" in lines[-1]
    latex = tables.latex(table)
    assert r"\textbf{0.900}" in latex and r"llr\_ada" in latex and latex.count(r"\midrule") == 3


def test_csv_lists_the_printed_numbers(tmp_path):
    text = tables.as_csv([row("llr>1", 0.9)], tables.read_paper(PAPER), {"x": "hvae"})
    head, line = text.splitlines()
    assert head.split(",") == [*tables.Row._fields, "printed"]
    assert "0.964 (S=1) [hierarchical_llr, table2]; 0.984 (S=250) [hierarchical_llr, table2]; 0.986 (S=1000)" in line
    (tmp_path / "again.csv").write_text(text)
    assert tables.read(tmp_path / "again.csv")[0].value == 0.9


def test_the_terminal_table_is_aligned_and_keeps_to_the_width():
    outs = ["omniglot_inverted", "smallnorb_inverted", *(f"set{i}" for i in range(14))]
    rows = [row(s, 0.001 * i + 0.5, out=o) for i, o in enumerate(outs) for s in ("l>0", "llr_ada")]
    rows += [row("control:total_variation", 0.7, out=o, metric="separation") for o in outs]
    lines = tables.terminal(rows).splitlines()
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
    text = tables.terminal([row("l>0", 0.5, out="fashion_mnist"), row("l>0", 0.2)])
    assert "0.200" in text and "0.500" not in text
