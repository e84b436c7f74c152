"""What counts as a paper's answer to a number of ours."""

import math
import tomllib
from pathlib import Path

import pytest

from oodgen.errors import UserError
from oodgen.report import paper_numbers, tables
from oodgen.runs import results

NAN = math.nan
EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PAPER = EXPERIMENTS / "hierarchical_llr" / "paper.yaml"


def row(score, value, out="mnist", seed=0, metric="auroc", protocol="full", low=NAN, high=NAN):
    return results.Row("x", "f" * 8, seed, "fashion_mnist", out, score, metric, value, low, high, protocol, 100, 90)


def test_the_paper_answers_with_every_sample_count_once():
    numbers = paper_numbers.read_paper(PAPER)
    (cell,) = tables.aggregate([row("llr>1", 0.9)])
    found = paper_numbers.lookup(numbers, cell, "hvae")
    assert [(p.samples, p.value) for p in found] == [("1", 0.964), ("250", 0.984), ("1000", 0.986)]
    (cell,) = tables.aggregate([row("l>0", 0.9)])
    (once,) = paper_numbers.lookup(numbers, cell, "hvae")
    assert once.value == 0.268 and once.table == "table2, table7"
    (weighted,) = tables.aggregate([row("llr>1 iw", 0.9)])
    assert paper_numbers.lookup(numbers, weighted, "hvae") == found
    assert not paper_numbers.lookup(numbers, cell, "glow"), "another method's number is no answer"


def test_the_papers_log_p_is_the_bound():
    (cell,) = tables.aggregate([row("l>0", 0.9, metric="bpd")])
    assert [p.value for p in paper_numbers.lookup(paper_numbers.read_paper(PAPER), cell, "hvae")] == [0.317]


def paper(tmp_path, **changes):
    cell = {"in": "fashion_mnist", "out": "mnist", "method": "hvae", "score": "llr>1", "metric": "auroc", "value": 98.4}
    cell |= {"role": "own_method", "source": "own", **changes}
    table = {"id": "table1", "unit": "percent", "decimals": 1, "cells": [cell]}
    import yaml

    (tmp_path / "paper.yaml").write_text(yaml.safe_dump({"slug": "p", "tables": [table]}))
    return paper_numbers.read_paper(tmp_path / "paper.yaml")


def test_percentages_become_fractions_with_the_printed_decimals(tmp_path):
    (item,) = paper(tmp_path)
    assert item.value == pytest.approx(0.984)
    table = paper_numbers.comparison(tables.aggregate([row("llr>1", 0.9)]), [item], "hvae")
    assert table.lines[0].entries[-1].text == "0.984"


def test_a_quoted_number_is_called_quoted(tmp_path):
    numbers = paper(tmp_path, role="quoted", source="quoted(somebody)")
    table = paper_numbers.comparison(tables.aggregate([row("llr>1", 0.9)]), numbers, "hvae")
    assert table.lines[0].entries[-1].text == "0.984 quoted" and "somebody" in table.lines[0].entries[-1].hint


def test_beside_prefers_equal_numbers_and_shows_only_what_was_printed():
    rows = [row("llr>1", 0.90), row("llr>1", 0.91, protocol="balanced"), row("llr_ada", 0.99)]
    table = paper_numbers.comparison(tables.aggregate(rows), paper_numbers.read_paper(PAPER), "hvae")
    (line,) = table.lines
    assert [e.text for e in line.entries] == [
        *("mnist", "llr>1", "0.910", "0.964 (S=1); 0.984 (S=250); 0.986 (S=1000)")
    ]


def test_other_methods_name_the_source_of_what_they_quote():
    table = paper_numbers.other_methods(paper_numbers.read_paper(PAPER), "fashion_mnist", ["mnist"], "hvae")
    lines = {line.entries[1].text: [e.text for e in line.entries] for line in table.lines}
    assert lines["binary_classifier: classifier"][2:] == ["quoted(Ren et al. 2019 [1])", "0.455", "0.505", "0.886"]
    assert not any(name.startswith("hvae:") for name in lines)


def test_a_number_of_another_method_is_listed_once_unless_two_tables_differ():
    table = paper_numbers.other_methods(negative_sampling(), "fashion_mnist", ["mnist"], "nobody")
    lines = [tuple(entry.text for entry in line.entries[1:4]) for line in table.lines]
    plain = [line for line in lines if line[0] == "vae likelihood=bernoulli: l>0"]
    assert plain == [("vae likelihood=bernoulli: l>0", "negative_sampling, table1, table3, table5", "0.46")]
    generated = [line[1:] for line in lines if line[0] == "ns_vae likelihood=bernoulli negatives=generated: l>0"]
    assert generated == [("negative_sampling, table3", "0.70"), ("negative_sampling, table5", "0.76")]
    assert len(set(lines)) == len(lines)


def test_epochs_are_of_the_table_or_the_paper_and_of_what_was_trained_there(tmp_path):
    assert {item.epochs for item in negative_sampling()} == {"100"}
    bpvae = paper_numbers.read_paper(EXPERIMENTS / "bpvae" / "paper.yaml")
    assert {(item.quoted, item.epochs) for item in bpvae} == {(True, ""), (False, "200")}
    hvae = {(item.method, item.epochs) for item in paper_numbers.read_paper(PAPER) if item.method in ("hvae", "biva")}
    assert hvae == {("hvae", "2000"), ("biva", "")}
    assert paper(tmp_path)[0].epochs == ""
    path = tmp_path / "paper.yaml"
    path.write_text("epochs: 7\n" + path.read_text().replace("- cells:", "- epochs: 9\n  cells:"))
    assert paper_numbers.read_paper(path)[0].epochs == "9"


def negative_sampling():
    return paper_numbers.read_paper(EXPERIMENTS / "negative_sampling" / "paper.yaml")


def test_a_slug_holds_the_qualifiers_that_a_cell_has():
    found = {item.method for item in negative_sampling()}
    assert {"vae likelihood=bernoulli", "ns_vae likelihood=gaussian negatives=emnist_letters"} <= found
    found = {item.method for item in paper_numbers.read_paper(EXPERIMENTS / "bpvae" / "paper.yaml")}
    assert {"vae", "bpvae simple=mnist", "bpvae simple=omniglot", "odin"} <= found


def test_what_is_printed_as_bits_and_is_nats_answers_to_nats():
    numbers = negative_sampling()
    for out, value in (("fashion_mnist", 0.30), ("mnist", 0.35)):
        (cell,) = tables.aggregate([row("l>0", 0.9, out=out, metric="nats_dim")])
        (item,) = paper_numbers.lookup(numbers, cell, "vae likelihood=bernoulli")
        assert item.value == value and item.table == "table1, table3, table5"
    assert not any(item.metric == "bpd" for item in numbers)
    (cell,) = tables.aggregate([row("l>0", 0.9)])
    assert [p.value for p in paper_numbers.lookup(numbers, cell, "vae likelihood=gaussian")] == [0.98]
    (cell,) = tables.aggregate([row("kl", 0.9)])
    assert [p.value for p in paper_numbers.lookup(numbers, cell, "vae likelihood=gaussian")] == [0.26]


def test_true_bits_stay_bits(tmp_path):
    (item,) = paper(tmp_path, metric="bpd", score=None, split="in_test")
    assert (item.metric, item.score, item.out) == ("bpd", "l>0", "mnist")


def test_an_accuracy_is_that_of_the_most_probable_class():
    numbers = paper_numbers.read_paper(EXPERIMENTS / "generative_ensembles" / "paper.yaml")
    (cell,) = tables.aggregate([row("class", 0.7, out="cifar10", metric="accuracy")._replace(inlier="cifar10")])
    assert [(p.value, p.table) for p in paper_numbers.lookup(numbers, cell, "vib")] == [(0.757, "text")]
    table = paper_numbers.comparison([cell], numbers, "vib")
    assert (table.head[-1], table.lines[0].entries[-1].text) == ("ACCURACY paper", "0.757")


def test_an_average_answers_to_the_mean_of_its_own_name_and_grey_sets_to_theirs():
    numbers = paper_numbers.read_paper(EXPERIMENTS / "bpvae" / "paper.yaml")
    for out, value in (("cifar10", 18.282), ("mnist", 14.831)):
        (cell,) = tables.aggregate([row("psnr", 18.0, out=out, metric="mean")._replace(inlier="cifar10")])
        assert [p.value for p in paper_numbers.lookup(numbers, cell, "vae")] == [value]
    (cell,) = tables.aggregate([row("l>0", 0.5, out="svhn")._replace(inlier="cifar10")])
    assert [p.value for p in paper_numbers.lookup(numbers, cell, "vae")] == [0.037]
    (mse,) = [p for p in numbers if p.score == "mse" and (p.out, p.method) == ("mnist", "vae")]
    assert paper_numbers.as_entry(mse).text == "0.0346", "printed with four decimals in a table of three"


def test_powers_of_ten_are_printed_as_such():
    (item,) = [p for p in negative_sampling() if p.value > 1e9 and p.table == "table3"]
    assert paper_numbers.as_entry(item).text == "1e+18 ± 1e+19"


def test_numbers_that_two_tables_print_unlike_are_both_there():
    (cell,) = tables.aggregate([row("l>0", 0.9)])
    table = paper_numbers.comparison([cell], negative_sampling(), "ns_vae likelihood=bernoulli negatives=generated")
    assert table.lines[0].entries[-1].text == "0.70 ± 0.13; 0.76 ± 0.14"


@pytest.mark.parametrize("text", ["tables: [1", "a: 1", "- 1", ""])
def test_something_else_than_a_paper_is_named(tmp_path, text):
    (tmp_path / "paper.yaml").write_text(text)
    with pytest.raises(UserError, match=r"paper\.yaml") as error:
        paper_numbers.read_paper(tmp_path / "paper.yaml")
    assert "\n" not in str(error.value)


def test_the_wheel_holds_every_papers_numbers():
    project = tomllib.loads((EXPERIMENTS.parent / "pyproject.toml").read_text())
    inside = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for path in EXPERIMENTS.glob("*/paper.yaml"):
        name = path.relative_to(EXPERIMENTS.parent).as_posix()
        assert inside[name] == f"oodgen/{name}"


def test_members_of_an_ensemble_are_no_importance_samples():
    numbers = paper_numbers.read_paper(EXPERIMENTS / "generative_ensembles" / "paper.yaml")
    assert {item.samples for item in numbers if item.method in ("vae_ensemble", "wgan_ensemble")} == {""}
    assert {item.samples for item in numbers if (item.table, item.method) == ("table3", "vae")} == {"16"}


def test_each_paper_names_its_scores_and_their_sources(tmp_path):
    found = {path.parent.name: paper_numbers.read_scores(path) for path in paper_numbers.find_papers()}
    assert list(found) == [*("adaptive_llr", "bpvae", "generative_ensembles", "hierarchical_llr", "negative_sampling")]
    assert found["hierarchical_llr"] == {"llr>k": "Havtorn et al. 2021"} and found["bpvae"].keys() == {"l>0"}
    assert all(source[-4:].isdigit() for scores in found.values() for source in scores.values())
    (tmp_path / "paper.yaml").write_text("scores: [llr_ada]")
    with pytest.raises(UserError, match="no table of a score and its source"):
        paper_numbers.read_scores(tmp_path / "paper.yaml")
