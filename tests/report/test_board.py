"""The board of an inlier set: which scores stand for an experiment, what is marked, what it cost, what others claim."""

import math

from oodgen.report import tables
from oodgen.report.board import Candidate, boards
from oodgen.report.claims import Claim
from oodgen.report.cost import HEAD, Cost, of_records


def cells(auroc, inlier="photos", controls=(), oracles=()):
    def cell(score, out, value, metric, protocol="full"):
        return tables.Cell("e", inlier, out, score, metric, protocol, value, math.nan, math.nan, math.nan, (0,), 10, 10)

    found = [cell(score, out, value, "auroc") for score, values in auroc.items() for out, value in values.items()]
    found += [cell(score, out, value, "auroc", "oracle") for score, out, value in oracles]
    return found + [cell(f"control:{score}", out, value, "separation") for score, out, value in controls]


def candidate(name, auroc, against=(), own=None, cost=None, **options):
    return Candidate(name, cells(auroc, **options), against, own or {}, cost)


A = candidate("a", {"l>0": {"x": 0.9, "y": 0.2}, "llr_ada": {"x": 0.8, "y": 0.7}})
B = candidate("b", {"l>0": {"x": 0.6, "z": 0.5}})
C = candidate("c", {"msp": {"x": 0.95}, "odin": {"x": 0.99}})


def lines(table):
    """What stands in each line: method, score, then the AUROCs, a star at what is marked."""
    return [[entry.text + "*" * entry.best for entry in line.entries[: -len(HEAD)]] for line in table.lines]


def board(*candidates, claims=()):
    (table,) = boards(candidates, claims).values()
    return table


def test_each_experiment_stands_by_its_default_score():
    table = board(A, B, C)
    assert table.head == ("method", "score", "x", "y", "z", *HEAD) and table.labels == 2
    # not by the better l>0 of a, nor by the better odin of c
    assert lines(table) == [
        ["a", "llr_ada", "0.800", "0.700", ""],
        ["b", "l>0", "0.600", "", "0.500"],
        ["c", "msp", "0.950*", "", ""],
    ]


def test_the_scores_of_its_paper_stand_below_and_oracles_last_and_unmarked():
    own = {"llr>k": "Havtorn", "l>0": "Csiszárik", "llr_ada": "Li", "regret": "Xiao"}
    found = cells({"l>0": {"x": 0.9}, "llr_ada": {"x": 0.8}}, oracles=[("llr>k", "x", 1.0)])
    table = board(A._replace(own=own, cells=found), B)
    assert lines(table) == [
        ["a", "llr_ada", "0.800", ""],
        ["a", "l>0", "0.900*", ""],
        ["b", "l>0", "0.600", "0.500"],
        ["a", "llr>k (oracle)", "1.000", ""],
    ]
    assert [line.kind for line in table.lines] == ["score", "score", "score", "oracle"]
    assert table.lines[1].entries[1].hint == "plain likelihood, Csiszárik"


def test_one_experiment_is_a_board_and_each_inlier_set_has_one():
    assert list(boards([A, candidate("d", {"l>0": {"x": 0.5}}, inlier="digits")])) == ["photos", "digits"]
    assert lines(board(A)) == [["a", "llr_ada", "0.800", "0.700"]], "nothing is best without a rival"
    assert boards([]) == boards([Candidate("n", [])]) == boards([candidate("n", {})]) == {}


def test_what_was_trained_against_a_set_is_not_the_best_on_it():
    against = candidate("n", {"l>0": {"x": 1.0, "y": 1.0}}, ("x",))
    found = lines(board(A, B, against))
    assert found[-1] == ["n", "l>0", "1.000 †", "1.000*", ""] and found[0][2] == "0.800*"


def test_the_mark_of_a_known_set_stands_at_its_value():
    known = Candidate("n", [cell._replace(sd=0.01, seeds=(0, 1)) for cell in cells({"l>0": {"x": 1.0}})], ("x",))
    assert lines(board(known)) == [["n", "l>0", "1.000 † ± 0.010"]]


def test_lines_come_in_the_order_of_their_names():
    names = ["b", "a (k=2)", "a (k=10)", "a"]
    assert [line[0] for line in lines(board(*(A._replace(name=name) for name in names)))] == [
        *("a", "a (k=2)", "a (k=10)", "b")
    ]


def test_what_needs_no_model_comes_first():
    some = [("entropy", "x", 0.9), ("mean", "x", 0.95), ("nope", "y", 0.5)]
    table = board(A, candidate("d", {"l>0": {"x": 0.1}, "evidence_image": {"x": 0.7}}, controls=some))
    assert [line.kind for line in table.lines[:3]] == ["control", "control", "score"]
    assert lines(table)[0] == ["no model", "evidence_image", "0.700", ""]
    assert lines(table)[1] == ["no model", "best statistic", "0.950", "0.500"]
    assert [entry.hint for entry in table.lines[1].entries[2:4]] == ["mean intensity", "nope"]


def test_equal_to_what_is_printed_is_equally_good():
    table = board(A, candidate("b", {"l>0": {"x": 0.80001}}), candidate("n", {"l>0": {"x": math.nan}}))
    assert [line[2] for line in lines(table)] == ["0.800*", "0.800*"]


def record(seed, **more):
    seconds = {"train": 100.0 * (seed + 1), "evaluate": 5}
    provenance = {"seconds": seconds, "hardware": "a machine"}
    spent = {"training": {"steps": 2000, "epochs": 1.5}, "model": {"parameters": 1234}}
    return {"seed": seed, "provenance": provenance, **spent, **more}


def test_the_cost_is_a_mean_over_seeds_and_a_dash_where_a_record_is_silent():
    whole = of_records([record(0, score_seconds={"l>0": 0.5}), record(1, score_seconds={"l>0": 1.5})])
    assert whole == Cost(1.5, 2000, 150, 1234, {"l>0": 1.0}, "a machine")
    old = of_records([record(0, score_seconds={"l>0": 0.5}), record(1, model={})])
    shown = [[entry.text for entry in board(B._replace(cost=c)).lines[0].entries[-len(HEAD) :]] for c in (whole, old)]
    assert shown == [["1", "1.5", "2,000", "2 min", "1 s", "1,234"], ["1", "1.5", "2,000", "2 min", "–", "–"]]
    assert math.isnan(of_records([{"seed": 0}]).train_seconds)
    seeds = [B.cells[0]._replace(seeds=(0, 1, 2)), B.cells[1]]  # one set was scored by one seed only
    assert board(B._replace(cells=seeds, cost=whole)).lines[0].entries[-len(HEAD)].text == "1–3"


def test_claims_stand_last_as_a_range_with_the_number_of_their_sources():
    claims = [
        Claim("A", "photos", "x", "auroc", 0.9, "One 2020", ""),
        Claim("A", "photos", "x", "auroc", 0.4, "Two 2021", ""),
        Claim("B", "photos", "x", "auroc", 0.5, "Two 2021", ""),
        Claim("B", "photos", "y", "auroc", 1.0, "Two 2021", ""),
        Claim("B", "other", "y", "auroc", 0.1, "Two 2021", ""),
        Claim("B", "photos", "y", "fpr95", 0.1, "Two 2021", ""),
    ]
    table = board(A, B, claims=claims)
    assert lines(table)[-1][0] == "claimed elsewhere"
    assert lines(table)[-1][2:] == ["0.400–0.900 (2)", "1.000 (1)", ""]
    assert table.lines[-1].kind == "quoted"
    assert table.lines[-1].entries[2].hint == "A 0.400 (Two 2021); B 0.500 (Two 2021); A 0.900 (One 2020)"
