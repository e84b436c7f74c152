"""A paper's tables whole: which number of ours stands where, what is said where none does; none is out of reach."""

import math
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from oodgen import groups, ledger, printed, tables
from oodgen.paths import config_dir

NAN = math.nan
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
PAPERS = ("bpvae", "negative_sampling")


@cache
def printouts(slug):
    return {table.id: table for table in printed.read_tables(EXPERIMENTS / slug / "paper.yaml")}


def run(method, inlier, values, paper, seed=0, name="e", epochs=20.0, **config):
    """A run with rows of {(out, score, metric): value}, over whole sets; one without rows has diverged."""
    rows = [
        tables.Row(name, "f", seed, inlier, out, score, metric, value, NAN, NAN, "full", 9, 9)
        for (out, score, metric), value in values.items()
    ]
    record = {"experiment": name, "seed": seed, "method": method, "paper": paper, "training": {"epochs": epochs}}
    config = {"data.inlier._target_": f"oodgen.data.x.{inlier}", **config}
    return groups.Run(Path(f"{name}{seed}"), record, config, rows)


def shown(runs, slug, table):
    """The lines of a printed table beside runs, as dictionaries."""
    sheet = ledger.sheet(printouts(slug)[table], ledger.answers(groups.experiments(runs)))
    assert sheet is not None
    assert all(len(line.entries) == len(sheet.table.head) for line in sheet.table.lines)
    return [
        {name: entry.text for name, entry in zip(sheet.table.head, line.entries, strict=True)} | {"kind": line.kind}
        for line in sheet.table.lines
    ]


BERNOULLI = "vae likelihood=bernoulli"
VALUES = {
    ("mnist", "l>0", "auroc"): 0.4,
    ("mnist", "kl", "auroc"): 0.3,
    ("mnist", "l>0", "nats_dim"): 0.27,
    ("fashion_mnist", "l>0", "nats_dim"): 0.31,
}


def ours(**changes):
    return run(BERNOULLI, "fashion_mnist", VALUES, "negative_sampling", **changes)


def test_each_printed_number_has_its_place_with_seeds_and_epochs():
    up = {key: value + 0.02 for key, value in VALUES.items()}
    lines = shown([ours(), run(BERNOULLI, "fashion_mnist", up, "negative_sampling", 1)], "negative_sampling", "table3")
    assert len(lines) == 18
    first, second, third = lines[:3]
    assert (first["AUROC paper"], first["AUROC ours"]) == ("0.46 ± 0.05", "0.410 ± 0.014")
    assert (first["nats/dim paper"], first["nats/dim ours"]) == ("0.35 ± 0.08", "0.280 ± 0.014")
    assert (second["score"], second["AUROC ours"], second["nats/dim ours"]) == ("kl", "0.310 ± 0.014", "")
    assert (third["out"], third["AUROC ours"], third["nats/dim ours"]) == ("fashion_mnist", "", "0.320 ± 0.014")
    assert {(line["seeds"], line["epochs"]) for line in lines[:3]} == {("2", "20")}


def test_what_nobody_ran_and_what_was_not_measured_are_told_apart():
    partly = {key: value for key, value in VALUES.items() if key[0] == "mnist"}
    lines = shown([run(BERNOULLI, "fashion_mnist", partly, "negative_sampling")], "negative_sampling", "table3")
    assert lines[2]["nats/dim ours"] == "not measured" and lines[2]["seeds"] == "1"
    assert {line["AUROC ours"] for line in lines[3:]} == {"not run", ""}
    assert {line["seeds"] for line in lines[3:]} == {""}


def test_averages_of_a_set_stand_side_by_side():
    values = {(out, score, "mean"): 0.5 for out in ("cifar10", "mnist") for score in ("mse", "psnr", "ssim")}
    lines = shown([run("bpvae simple=mnist", "cifar10", values, "bpvae")], "bpvae", "table1")
    assert [(line["method"], line["out"]) for line in lines] == [
        *(("bpvae mnist", "cifar10"), ("vae", "cifar10"), ("bpvae mnist", "mnist"), ("vae", "mnist"))
    ]
    assert [line["psnr ours"] for line in lines] == ["0.50", "not run", "0.50", "not run"]
    assert [line["psnr paper"] for line in lines] == ["18.250", "18.282", "22.392", "14.831"]


def test_quoted_lines_come_last_and_are_never_called_unrun():
    lines = shown([run("vae", "fashion_mnist", {("mnist", "l>0", "auroc"): 0.2}, "bpvae")], "bpvae", "table2")
    kinds = [line["kind"] for line in lines]
    assert kinds == ["score"] * 2 + ["quoted"] * 5
    assert {line["AUROC ours"] for line in lines[2:]} == {"quoted"} and not any(line["seeds"] for line in lines[2:])
    hvae = run("hvae", "fashion_mnist", {("mnist", "l>0", "auroc"): 0.2}, "hierarchical_llr")
    kinds = [line["kind"] for line in shown([hvae], "hierarchical_llr", "table2")]
    assert printouts("hierarchical_llr")["table2"].items[0].quoted and kinds == sorted(
        kinds, key=["score", "quoted"].index
    )


def test_beside_an_unattainable_precision_stands_the_inliers_own_of_whole_sets():
    values = {("mnist", "l>0", metric): 0.1 * i for i, metric in enumerate(("auroc", "auprc", "auprc_in"), 1)}
    made = run("vae", "fashion_mnist", values, "bpvae")
    balanced = [row._replace(protocol="balanced", value=row.value + 0.5) for row in made.rows]
    (line,) = [li for li in shown([made._replace(rows=made.rows + balanced)], "bpvae", "table2") if li["seeds"]]
    assert (line["AUROC ours"], line["AUPRC ours"], line["AUPRC_IN ours"]) == ("0.600", "0.700", "0.300")
    hvae = run("hvae", "fashion_mnist", values, "hierarchical_llr")
    sheet = ledger.sheet(printouts("hierarchical_llr")["table7"], ledger.answers(groups.experiments([hvae])))
    assert not any("AUPRC_IN" in name for name in sheet.table.head)


def test_settings_of_one_cell_have_a_line_each_named_by_what_differs():
    values = {("mnist", "l>0", "auroc"): 0.9}

    def bpvae(sigma, **changes):
        return run(
            "bpvae simple=omniglot", "fashion_mnist", values, "bpvae", **changes, **{"method.sigma_s": str(sigma)}
        )

    lines = shown([bpvae(1), bpvae(0.1, epochs=5.0)], "bpvae", "table2")
    assert [(line["setting"], line["epochs"]) for line in lines[:3]] == [
        *(("method.sigma_s=0.1", "5"), ("method.sigma_s=1", "20"), ("", ""))
    ]
    lines = shown([bpvae(1), bpvae(1, name="mine")], "bpvae", "table2")
    assert [line["setting"] for line in lines[:2]] == ["e", "mine"]
    limited = run("bpvae simple=omniglot", "fashion_mnist", values, "bpvae", **{"data.limit": "100"})
    assert shown([limited], "bpvae", "table2")[0]["setting"] == "data.limit=100"
    assert "setting" not in shown([bpvae(1)], "bpvae", "table2")[0]


def test_the_weighted_bound_stands_below_the_score_that_papers_do_not_tell_it_from():
    values = {("mnist", score, "auroc"): value for score, value in (("llr>1", 0.9), ("llr>1 iw", 0.95))}
    lines = shown([run("hvae", "fashion_mnist", values, "hierarchical_llr")], "hierarchical_llr", "table7")
    both = [(li["score"], li["AUROC ours"]) for li in lines if li["out"] == "mnist" and li["score"].startswith("llr>1")]
    assert both == [("llr>1", "0.900"), ("llr>1 iw", "0.950")]


def test_a_line_says_how_many_of_its_seeds_diverged():
    lost = [run(BERNOULLI, "fashion_mnist", {}, "negative_sampling", seed) for seed in (1, 2)]
    lines = shown([ours(), *lost], "negative_sampling", "table1")
    assert (lines[0]["seeds"], lines[0]["AUROC ours"]) == ("1 (2 of 3 diverged)", "0.400")
    lines = shown(lost, "negative_sampling", "table1")
    assert (lines[0]["seeds"], lines[0]["AUROC ours"]) == ("0 (2 of 2 diverged)", "diverged")


def test_random_images_other_papers_and_other_inliers_answer_to_nothing():
    smoke = ours(smoke="True")
    others = [ours()._replace(record={**ours().record, "paper": "bpvae"})]
    others += [run(BERNOULLI, "kmnist", VALUES, "negative_sampling")]
    for made in (smoke, *others):
        given = ledger.answers(groups.experiments([made]))
        assert ledger.sheet(printouts("negative_sampling")["table1"], given) is None
    nobodys = ours()._replace(record={**ours().record, "paper": None})
    assert shown([nobodys], "negative_sampling", "table1")[0]["AUROC ours"] == "0.400"


def test_what_to_know_of_a_table_is_said_once():
    for table in printouts("negative_sampling").values():
        given = [ledger.Answer("e", "", "", item.method, item.inlier, [], 1, 0, "") for item in table.items]
        notes = ledger.sheet(table, given).after
        assert len(set(notes)) == len(notes)
        assert any("printed as bits/dim" in note for note in notes) == any(i.metric == "nats_dim" for i in table.items)


@cache
def configs():
    """Every experiment that names a paper and a method of it: name -> resolved config."""
    found = {}
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        for path in sorted((config_dir() / "experiment").glob("*.yaml")):
            made = compose("run", [f"+experiment={path.stem}"])
            if made.paper and made.paper_method:
                found[path.stem] = OmegaConf.to_container(made, resolve=True)
    return found


def test_every_experiments_method_is_one_that_its_paper_prints():
    assert {config["paper"] for config in configs().values()} >= set(PAPERS)
    for name, config in configs().items():
        methods = {item.method for table in printouts(config["paper"]).values() for item in table.items}
        assert config["paper_method"] in methods, name


@pytest.mark.parametrize("slug", PAPERS)
def test_every_number_that_a_paper_ran_is_filled_by_an_experiment(slug):
    fills = set()
    for config in configs().values():
        if config["paper"] == slug:
            data, inlier = config["data"], config["data"]["inlier"]["_target_"].rpartition(".")[2]
            metrics = {
                **dict.fromkeys(config["scores"], ("auroc", "auprc")),
                **dict.fromkeys(config["means"], ("mean",)),
            }
            metrics["l>0"] = ("auroc", "auprc", "nats_dim")
            fills |= {
                (inlier, out, config["paper_method"], score, metric)
                for out in (inlier, *data["out"])
                for score, several in metrics.items()
                for metric in several
            }
    own = [item for table in printouts(slug).values() for item in table.items if not item.quoted]
    assert len(own) == {"bpvae": 20, "negative_sampling": 106}[slug], "as many as the papers' tables hold"
    assert not {(i.inlier, i.out, i.method, i.score, i.metric) for i in own} - fills
