"""Experiments side by side: which score stands for each, what is marked, and what is not."""

import math

import pytest

from oodgen.report import tables
from oodgen.report.leaderboard import Candidate, leaderboards


def cells(auroc, inlier="photos", controls=()):
    def cell(score, out, value, metric):
        return tables.Cell("e", inlier, out, score, metric, "full", value, math.nan, math.nan, math.nan, (0,), 10, 10)

    found = [cell(score, out, value, "auroc") for score, values in auroc.items() for out, value in values.items()]
    return found + [cell(f"control:{score}", out, value, "separation") for score, out, value in controls]


def candidate(name, auroc, against=(), setting="", **options):
    return Candidate(name, setting, cells(auroc, **options), against)


A = candidate("a", {"l>0": {"x": 0.9, "y": 0.2}, "llr_ada": {"x": 0.8, "y": 0.7}})
B = candidate("b", {"l>0": {"x": 0.6, "z": 0.5}})
AFTERWARDS = candidate("c", {"msp": {"x": 0.95}, "odin": {"x": 0.99}})


def read(table):
    """Experiment -> what stands in its line, a star at what is marked."""
    return {line.entries[0].text: [entry.text + "*" * entry.best for entry in line.entries[1:]] for line in table.lines}


def test_each_experiment_stands_by_the_score_that_is_fixed_beforehand():
    (table,) = leaderboards([A, B, AFTERWARDS]).values()
    assert table.head == ("experiment", "score", "x", "y", "z") and table.labels == 2
    # not by the better l>0 of a, nor by the better odin of c
    assert read(table) == {
        "a": ["llr_ada", "0.800", "0.700", ""],
        "b": ["l>0", "0.600", "", "0.500"],
        "c": ["msp", "0.950*", "", ""],
    }


def test_an_only_score_is_no_choice():
    (table,) = leaderboards([A, candidate("critic", {"d": {"x": 0.9}})]).values()
    assert read(table)["critic"] == ["d", "0.900*", ""]


def test_what_was_trained_against_a_set_is_not_the_best_on_it():
    against = candidate("n", {"l>0": {"x": 1.0, "y": 1.0}}, ("x",))
    (table,) = leaderboards([A, B, against]).values()
    assert read(table)["n"] == ["l>0", "1.000 †", "1.000*", ""]
    assert read(table)["a"][1] == "0.800*"


def test_the_mark_of_a_known_set_stands_at_its_value():
    known = Candidate("n", "", [cell._replace(sd=0.01, seeds=(0, 1)) for cell in cells({"l>0": {"x": 1.0}})], ("x",))
    (table,) = leaderboards([A, known]).values()
    assert read(table)["n"][1] == "1.000 † ± 0.010"


def test_lines_come_in_the_order_of_their_names():
    names = ["b", "a (k=2)", "a (k=10)", "a"]
    (table,) = leaderboards([A._replace(experiment=name) for name in names]).values()
    assert list(read(table)) == ["a", "a (k=2)", "a (k=10)", "b"]


def test_the_best_control_of_each_set_is_named_on_hover():
    some = [("entropy", "x", 0.9), ("mean", "x", 0.95), ("nope", "y", 0.5)]
    (table,) = leaderboards([A, candidate("d", {"l>0": {"x": 0.1}}, controls=some)]).values()
    last = table.lines[-1]
    assert last.kind == "control"
    assert [(e.text, e.hint) for e in last.entries[2:]] == [("0.950", "mean intensity"), ("0.500", "nope")]


def test_equal_to_what_is_printed_is_equally_good():
    (table,) = leaderboards(
        [A, candidate("b", {"l>0": {"x": 0.80001}}), candidate("n", {"l>0": {"x": math.nan}})]
    ).values()
    assert [line[1] for line in read(table).values()] == ["0.800*", "0.800*"]


def test_the_values_of_a_study_stand_apart():
    (table,) = leaderboards([A._replace(setting="k=1"), A._replace(setting="k=2"), B]).values()
    assert list(read(table)) == ["a, k=1", "a, k=2", "b"]


@pytest.mark.parametrize(
    "alone",
    [
        [],
        [A],
        [A, Candidate("n", "", [], ())],
        [A, candidate("b", {"l>0": {"x": 0.5}}, inlier="digits")],
        [A._replace(setting="k=1"), A._replace(setting="k=2")],
    ],
)
def test_what_has_nothing_beside_it_makes_no_table(alone):
    assert leaderboards(alone) == {}
