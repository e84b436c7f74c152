"""The sentences about a run: they follow from the rows, and hide no choice made on OOD data."""

import pytest

from oodgen.report import tables
from oodgen.report.summary import verdict

AUROC = {
    "l>0": {"digits": 0.04, "hflip": 0.50},
    "llr>1": {"digits": 0.93, "hflip": 0.52},
    "llr_ada": {"digits": 0.99, "hflip": 0.51},
}


def cells(auroc=AUROC, controls=None, sd=None):
    seeds = (0,) if sd is None else (0, 1, 2)

    def cell(score, out, value, metric):
        nan = float("nan")
        deviation = nan if sd is None else sd.get((score, out), 0.01)
        return tables.Cell("e", "photos", out, score, metric, "full", value, deviation, nan, nan, seeds, 10, 10)

    found = [cell(s, o, v, "auroc") for s, values in auroc.items() for o, v in values.items()]
    return found + [cell(f"control:{s}", o, v, "separation") for (s, o), v in (controls or {}).items()]


def test_the_verdict_tells_a_failing_likelihood_and_where_the_ratio_fails_too():
    first, second = verdict(cells())
    assert first.startswith("On digits plain likelihood fails (AUROC 0.040)") and first.endswith(
        "llr_ada reaches 0.990."
    )
    assert second == "llr_ada stays below 0.7 on hflip (0.510)."


def test_the_verdict_names_the_score_fixed_beforehand_not_the_best():
    better = {**AUROC, "llr>1": {"digits": 0.999, "hflip": 0.9}}
    assert "llr_ada" in verdict(cells(better))[0] and "llr>1" not in verdict(cells(better))[0]


def test_a_sufficient_control_is_said_aloud():
    words = verdict(cells(controls={("entropy", "digits"): 0.998, ("mean", "digits"): 0.6}))[-1]
    assert "digits (entropy of the pixels, 0.998)" in words and "proves nothing about semantics" in words
    assert not any("semantics" in s for s in verdict(cells(controls={("entropy", "digits"): 0.9})))


@pytest.mark.parametrize(
    ("plain", "ratio", "words"),
    [
        (0.5, 0.9, "no better than guessing"),
        (0.8, 0.9, "less likely than photos"),
        (0.1, 0.3, "does not repair it"),
    ],
)
def test_the_verdict_follows_the_numbers(plain, ratio, words):
    assert words in verdict(cells({"l>0": {"digits": plain}, "llr_ada": {"digits": ratio}}))[0]


def test_a_verdict_needs_neither_ratio_nor_bound():
    assert "critic separates photos" in verdict(cells({"critic": {"digits": 0.8}}))[0]
    assert verdict([]) == ["No AUROC was measured."]


VAE = {
    "l>0": {"digits": 0.3, "letters": 0.9},
    "kl": {"digits": 0.4, "letters": 0.8},
    "complexity_png": {"digits": 0.99, "letters": 0.99},
}


def test_a_score_that_won_afterwards_repairs_nothing_and_is_called_so():
    first, second, *_ = verdict(cells(VAE))
    assert "plain likelihood fails (AUROC 0.300)" in first and "complexity_png" not in first
    assert "known only afterwards" in second and "complexity_png" in second
    assert not any("repair" in sentence or "complexity_png reaches" in sentence for sentence in verdict(cells(VAE)))


def test_where_something_was_trained_against_the_bound_is_the_score_fixed_beforehand():
    sentences = verdict(cells(VAE), ["letters"])
    assert "fixed beforehand" in sentences[0] and "AUROC 0.300 on digits" in sentences[0]
    assert not any("plain likelihood" in sentence for sentence in sentences)
    assert any("no unknown set: letters" in sentence for sentence in sentences)


def test_the_first_set_named_is_one_that_was_not_in_training():
    assert "has AUROC 0.900 on letters against photos." in verdict(cells(VAE), ["digits"])[0]
    assert "on digits against photos" in verdict(cells(VAE), ["digits", "letters"])[0]
    assert "AUROC 0.300 on digits against photos; over" in verdict(cells(VAE), ["generated"])[0]


def test_means_over_seeds_stand_with_their_deviation():
    first, second = verdict(cells(sd={}))
    assert "(AUROC 0.040 ± 0.010)" in first and "llr_ada reaches 0.990 ± 0.010" in first
    assert "hflip (0.510 ± 0.010)" in second
    assert "has AUROC 0.300 ± 0.010 on digits" in verdict(cells(VAE, sd={}), ["letters"])[0]


def test_seeds_that_disagree_are_not_summed_up_in_silence():
    words = " ".join(verdict(cells(sd={("l>0", "digits"): 0.2, ("llr_ada", "hflip"): 0.06, ("llr>1", "digits"): 0.3})))
    assert "The seeds disagree: l>0 on digits (sd 0.200) and llr_ada on hflip (sd 0.060)." in words
    assert "disagree" not in " ".join(verdict(cells(sd={("l>0", "digits"): 0.05})))
    assert "disagree" not in " ".join(verdict(cells()))
