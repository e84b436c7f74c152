"""Rows, cells, tables: arithmetic over seeds, what is marked best, in which order things stand."""

import math
import statistics

import pytest

from oodgen.errors import UserError
from oodgen.report import tables
from oodgen.runs import results

NAN = math.nan


def row(score, value, out="mnist", seed=0, metric="auroc", protocol="full", low=NAN, high=NAN):
    return results.Row("x", "f" * 8, seed, "fashion_mnist", out, score, metric, value, low, high, protocol, 100, 90)


def write(path, rows):
    lines = [",".join(results.Row._fields), *(",".join("" if v != v else str(v) for v in r) for r in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_read_gives_back_what_was_written(tmp_path):
    rows = [row("l>0", 0.25, low=0.2, high=0.3), row("llr>1", 0.75)]
    found = results.read(write(tmp_path / "results.csv", rows))
    assert found[0] == rows[0]
    assert math.isnan(found[1].low) and found[1][:8] == rows[1][:8]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("experiment,seed\nx,0\n", "fingerprint"),
        (",".join(results.Row._fields) + "\nx,f,zero,a,b,c,auroc,0.5,,,full,1,1\n", "zero"),
        (",".join(results.Row._fields) + "\nx,f,0,a,b,c,au", "results.csv"),
        ("", "column"),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path, text, word):
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(UserError, match=r"results\.csv") as error:
        results.read(tmp_path / "results.csv")
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
    assert tables.describe_score("llr>1 iw") == "ratio: l>1 against l>0, with the importance-weighted l>0"
    assert tables.describe_score("llr>1 mine") == tables.describe_score("mine iw") == ""


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


def test_scores_of_a_vae_stand_in_order_and_say_what_they_are():
    scores = ["ssim", "complexity_png", "psnr", "kl", "mse", "l>0"]
    assert [s for s in sorted(scores, key=tables.score_order) if s[0] in "lkc"] == ["l>0", "kl", "complexity_png"]
    assert all(map(tables.describe_score, scores)) and tables.describe_score("kl") != tables.describe_score("kl_1")


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("nats_dim", 0.31602, "0.316"),
        ("nats_dim", 9999.5, "9999.500"),
        ("nats_dim", 10000.0, "1e+04"),
        ("nats_dim", 1e18, "1e+18"),
        ("nats_dim", -1e18, "-1e+18"),
        ("nats_dim", math.inf, "inf"),
        ("nats", -24776.3, "-24776.3"),
        ("psnr", 18.256, "18.26"),
        ("mse", 0.01664, "0.0166"),
        ("ssim", 0.54321, "0.543"),
        ("auroc", NAN, "–"),
    ],
)
def test_numbers_have_as_many_digits_as_can_be_read(metric, value, text):
    assert tables.format_value(metric, value) == text


def test_a_mean_over_a_set_is_written_as_what_was_averaged():
    (cell,) = tables.aggregate([row("psnr", 18.256, metric="mean")])
    assert tables.cell_entry(cell).text == "18.26"


def test_an_infinite_value_has_a_mean_and_no_deviation():
    (cell,) = tables.aggregate([row("l>0", v, seed=s, metric="nats_dim") for s, v in enumerate((1.0, math.inf))])
    assert tables.cell_entry(cell).text == "inf" and cell.seeds == (0, 1)


def test_values_of_an_option_stand_in_numeric_order():
    settings = ["last", "epoch10", "64", "epoch2", "1e-3", "8", "best"]
    assert sorted(settings, key=tables.natural_order) == ["1e-3", "8", "64", "epoch2", "epoch10", "best", "last"]
