"""Studies: what is followed over the values of an option, and when its axis is logarithmic."""

import math

import pytest

from oodgen.report import ablation, tables


def cells(values, outs=("mnist",), seeds=(0,)):
    """AUROC of each score at each setting, with a control and the inlier's own row, which belong to no study."""
    return {
        setting: [
            tables.Cell("e", "photos", out, score, "auroc", "full", value, math.nan, 0.1, 0.9, seeds, 9, 9)
            for out in (*outs, "photos")
            for score, value in {**scores, "control:mean": 0.5}.items()
        ]
        for setting, scores in values.items()
    }


VALUES = {
    "epoch2": {"l>0": 0.2, "kl_1": 0.4, "llr_ada": 0.8, "llr>1 mode": 0.7, "llr>1 gap": 0.6},
    "epoch10": {"l>0": 0.1, "llr_ada": 0.9},
}


def test_the_table_follows_bounds_ratios_and_modes_in_numeric_order():
    table = ablation.table(cells(VALUES), "checkpoint")
    assert table.head == ("checkpoint", "l>0", "llr>1 mode", "llr_ada")
    assert [[e.text for e in line.entries] for line in table.lines] == [
        ["epoch2", "0.200", "0.700", "0.800"],
        ["epoch10", "0.100", "", "0.900"],
    ]
    assert not any(entry.best for line in table.lines for entry in line.entries)


def test_several_out_sets_are_blocks_and_uneven_seeds_are_named():
    several = cells(VALUES, ("mnist", "kmnist")) | cells({"last": {"l>0": 0.3}}, ("kmnist",), (0, 1))
    table = ablation.table(several, "checkpoint")
    assert table.head[:3] == ("out", "checkpoint", "seeds") and table.labels == 3
    firsts = [tuple(e.text for e in line.entries[:3]) for line in table.lines]
    assert firsts == [
        *(("mnist", "epoch2", "0"), ("mnist", "epoch10", "0")),
        *(("kmnist", "epoch2", "0"), ("kmnist", "epoch10", "0"), ("kmnist", "last", "0, 1")),
    ]


def test_a_method_of_other_scores_is_followed_by_those():
    assert ablation.table(cells({"1": {"critic": 0.5}, "2": {"critic": 0.6}}), "k").head == ("k", "critic")


def test_curves_are_of_numbers_with_one_unit():
    found = ablation.curves(cells(VALUES))
    assert [point[:2] for point in found["mnist"]["l>0"]] == [(2, 0.2), (10, 0.1)]
    assert "llr>1 mode" not in found["mnist"], "one point is no curve"
    assert not ablation.curves(cells({"best": {"l>0": 0.2}, "last": {"l>0": 0.1}}))
    assert not ablation.curves(cells({"epoch1": {"l>0": 0.2}, "step9": {"l>0": 0.1}}))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 4, 64], True),
        ([0.001, 0.01, 0.1], True),
        ([1, 2, 3, 4], False),
        ([1, 2], False),
        ([0, 1, 2], False),
        ([1, 10, 64], False),
    ],
)
def test_powers_are_read_on_a_logarithmic_axis(values, expected):
    assert ablation.is_geometric(values) is expected


def test_the_sentence_tells_the_ends():
    (sentence,) = ablation.describe_change(cells(VALUES), "checkpoint")
    assert sentence.startswith("On mnist, from checkpoint=epoch2 to epoch10:")
    assert "(l>0) goes from 0.200 to 0.100" in sentence and "(llr_ada) goes from 0.800 to 0.900" in sentence
    assert ablation.describe_change({}, "checkpoint") == ["No AUROC was measured."]
