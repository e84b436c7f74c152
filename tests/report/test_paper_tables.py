"""A paper's tables whole: which number of ours stands where, what is said where none does; none is out of reach."""

import math
from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from oodgen.report import grouping, paper_numbers, paper_tables
from oodgen.runs import results
from oodgen.runs.labels import with_labels
from oodgen.runs.locations import config_dir

NAN = math.nan
EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PAPERS = {  # how many numbers each ran itself
    "adaptive_llr": 122,
    "bpvae": 20,
    "generative_ensembles": 140,
    "hierarchical_llr": 286,
    "negative_sampling": 106,
}


@cache
def printouts(slug):
    return {table.id: table for table in paper_numbers.read_tables(EXPERIMENTS / slug / "paper.yaml")}


def run(method, inlier, values, paper, seed=0, name="e", epochs=20.0, said=None, **config):
    """A run with rows of {(out, score, metric): value}, over whole sets; one without rows has diverged.

    `said` is what further its record says.
    """
    rows = [
        results.Row(name, "f", seed, inlier, out, score, metric, value, NAN, NAN, "full", 9, 9)
        for (out, score, metric), value in values.items()
    ]
    record = {"experiment": name, "seed": seed, "method": method, "paper": paper, "training": {"epochs": epochs}}
    record |= said or {}
    config = {"data.inlier._target_": f"oodgen.data.x.{inlier}", **config}
    return grouping.Run(Path(f"{name}{seed}"), record, config, rows)


def shown(runs, slug, table):
    """The lines of a printed table beside runs, as dictionaries."""
    sheet = paper_tables.comparison(printouts(slug)[table], paper_tables.our_results(grouping.experiments(runs)))
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
    assert {(line["seeds"], line["epochs"]) for line in lines[:3]} == {("2", "20 of 100")}


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
    sheet = paper_tables.comparison(
        printouts("hierarchical_llr")["table7"], paper_tables.our_results(grouping.experiments([hvae]))
    )
    assert not any("AUPRC_IN" in name for name in sheet.table.head)


def test_settings_of_one_cell_have_a_line_each_named_by_what_differs():
    lines = shown([bpvae(1), bpvae(0.1, epochs=5.0)], "bpvae", "table2")
    assert [(line["setting"], line["epochs"]) for line in lines[:3]] == [
        *(("method.sigma_s=0.1", "5 of 200"), ("method.sigma_s=1", "20 of 200"), ("", ""))
    ]
    lines = shown([bpvae(1), bpvae(1, name="mine")], "bpvae", "table2")
    assert [line["setting"] for line in lines[:2]] == ["e", "mine"]
    assert shown([bpvae(config={"data.limit": "100"})], "bpvae", "table2")[0]["setting"] == "data.limit=100"
    assert "setting" not in shown([bpvae(1)], "bpvae", "table2")[0]


def bpvae(sigma=1, overrides=None, values=0.9, **changes):
    """A run of BPVAE by FashionMNIST and Omniglot, with the overrides of its command where they are known."""
    said = {} if overrides is None else {"overrides": ["+experiment=e", *overrides]}
    rows = {("mnist", "l>0", "auroc"): values} if values is not None else {}
    config = {"method.sigma_s": str(sigma), **changes.pop("config", {})}
    said |= changes.pop("said", {})
    return run("bpvae simple=omniglot", "fashion_mnist", rows, "bpvae", said=said, **changes, **config)


def settings(*runs):
    """Setting, seeds and epochs of our lines in BPVAE's table 2, without the printed epochs."""
    lines = [line for line in shown(runs, "bpvae", "table2") if line["seeds"]]
    return [(line.get("setting", ""), line["seeds"], line["epochs"].removesuffix(" of 200")) for line in lines]


def test_a_lone_run_with_a_changed_option_does_not_pass_for_the_shipped_experiment():
    assert settings(bpvae(5, ["method.sigma_s=5", "seed=0"])) == [("method.sigma_s=5", "1", "20")]
    assert settings(bpvae(1, ["seed=0", "trainer.max_epochs=20"])) == [("", "1", "20")]
    assert settings(bpvae(5)) == [("", "1", "20")], "an older record does not tell"


def test_seeds_share_a_line_where_their_commands_and_epochs_do():
    def made(seed, epochs=20, **config):
        overrides = ["method.sigma_s=5", f"seed={seed}", f"trainer.max_epochs={epochs}"]
        config = {"trainer.max_epochs": str(epochs), **{key.replace("__", "."): v for key, v in config.items()}}
        return bpvae(5, overrides, seed=seed, epochs=float(epochs), config=config)

    assert settings(made(0, device__accelerator="cpu"), made(1, device__accelerator="gpu")) == [
        ("method.sigma_s=5", "2", "20")
    ]
    assert settings(made(0), made(1, 100)) == [("method.sigma_s=5", "1", "20"), ("method.sigma_s=5", "1", "100")]
    # an experiment that was changed between two runs of one command
    changed = settings(made(0), made(1, method__lr="3"))
    assert [setting for setting, *_ in changed] == [
        "method.sigma_s=5, method.lr=3",
        "method.sigma_s=5, method.lr=unset",
    ]
    # an override that says what is so anyway
    assert settings(bpvae(1, ["method.sigma_s=1"]), bpvae(1, [], seed=1)) == [("", "2", "20")]


def test_a_diverged_seed_stands_on_the_line_of_its_config_though_it_left_no_record():
    lines = settings(bpvae(5, ["method.sigma_s=5"]), bpvae(5, values=None, seed=1), bpvae(0.1, values=None, seed=2))
    assert lines == [
        ("method.sigma_s=0.1", "0 (1 of 1 diverged)", ""),
        ("method.sigma_s=5", "1 (1 of 2 diverged)", "20"),
    ]


def after(runs, slug, table):
    return paper_tables.comparison(printouts(slug)[table], paper_tables.our_results(grouping.experiments(runs)))


def test_grey_images_are_named_where_all_of_ours_are():
    grey = {"data.grey": "True", "data.size": "[32, 32]"}
    assert after([bpvae(config=grey)], "bpvae", "table2").before == "Trained on fashion_mnist, grey 32 × 32."
    assert after([bpvae(config={"data.grey": "True", "data.size": "None"})], "bpvae", "table2").before.endswith(
        ", grey."
    )
    for config in ({"data.grey": "False", "data.size": "[32, 32]"}, {}):
        assert after([bpvae(config=config)], "bpvae", "table2").before == "Trained on fashion_mnist."
    assert "grey" not in after([bpvae(config=grey), bpvae(seed=1, values=0.8)], "bpvae", "table2").before


def test_warnings_follow_the_tables_that_use_the_run_and_say_whose_they_are():
    warned = {"warnings": ["l>0 of mnist has run away."]}
    runs = [
        bpvae(5, ["method.sigma_s=5"], said=warned),
        bpvae(5, ["method.sigma_s=5"], seed=1),
        ours(said=warned, name="plain"),
    ]
    (line,) = [line for line in after(runs, "bpvae", "table2").after if "run away" in line]
    assert line == "bpvae omniglot, trained on fashion_mnist, method.sigma_s=5: seed 0: l>0 of mnist has run away."
    (line,) = [line for line in after(runs, "negative_sampling", "table1").after if "run away" in line]
    assert line.startswith("vae bernoulli, trained on fashion_mnist: l>0")


def test_where_a_paper_counts_samples_ours_are_counted_too():
    values, probes = {("mnist", "llr>1", "auroc"): 0.9}, {"probes.bounds.samples": "8", "probes.bounds.samples_k": "4"}

    def notes(**scores):
        own = [run("hvae", "fashion_mnist", values, "hierarchical_llr", **probes, **scores)]
        return after(own, "hierarchical_llr", "table7").after

    both = "S: the paper's importance samples; ours took S = 8 for l>0 and 4 for l>k."
    assert both in notes(**{"scores.l>0.k": "0", "scores.llr>1.k": "1"})
    assert both in notes(**{"scores.llr_ada._target_": "oodgen.scores.ratio.llr_ada"})
    # what no score asks for is of no matter
    shallow = notes(**{"scores.l>0.k": "0", "scores.c._target_": "oodgen.scores.ratio.input_complexity"})
    assert "S: the paper's importance samples; ours took S = 8." in shallow
    assert not any(note.startswith("S:") for note in after([bpvae(config=probes)], "bpvae", "table2").after)


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
        given = paper_tables.our_results(grouping.experiments([made]))
        assert paper_tables.comparison(printouts("negative_sampling")["table1"], given) is None
    nobodys = ours()._replace(record={**ours().record, "paper": None})
    assert shown([nobodys], "negative_sampling", "table1")[0]["AUROC ours"] == "0.400"


def test_what_to_know_of_a_table_is_said_once():
    for table in printouts("negative_sampling").values():
        given = [paper_tables.OurResult("e", "", "", item.method, item.inlier, [], 1, 0, "") for item in table.items]
        notes = paper_tables.comparison(table, given).after
        assert len(set(notes)) == len(notes)
        assert any("printed as bits/dim" in note for note in notes) == any(i.metric == "nats_dim" for i in table.items)


def test_the_fraud_table_shows_both_conventions_of_its_average_precision():
    def rows(out, score):
        made = {(out, score, metric): 0.1 * i for i, metric in enumerate(("fpr95", "auroc", "auprc", "auprc_in"), 1)}
        return run("vae" if score == "l>0" else "classifier", "credit_fraud", made, "generative_ensembles")

    found = [rows("credit_fraud_frauds", "l>0"), rows("credit_fraud_known", "classifier")]
    # fewer known frauds than normal rows: equal numbers are what the paper has
    balanced = [row._replace(protocol="balanced", value=row.value + 0.5) for row in found[1].rows]
    found[1] = found[1]._replace(rows=found[1].rows + balanced, record=found[1].record | {"experiment": "c"})
    lines = shown(found, "generative_ensembles", "table3")
    assert [line["method"] for line in lines] == ["classifier", "vae", "vae_ensemble"]
    assert [line["out"] for line in lines] == ["credit_fraud_known", "credit_fraud_frauds", "credit_fraud_frauds"]
    ours = ("FPR95 ours", "AUROC ours", "AUPRC ours", "AUPRC_IN ours")
    assert [lines[0][name] for name in ours] == ["0.600", "0.700", "0.800", "0.900"]
    assert [lines[1][name] for name in ours] == ["0.100", "0.200", "0.300", "0.400"]
    assert {lines[2][name] for name in ours} == {"not run"}
    assert [lines[0][f"{name} paper"] for name in ("FPR95", "AUROC", "AUPRC")] == ["0.040", "0.991", "0.993"]
    notes = after(found, "generative_ensembles", "table3").after
    assert sum("which class is positive is not said" in note for note in notes) == 1


def test_quoted_odin_stays_quoted_beside_a_run_of_ours():
    vib = run("vib", "mnist", {("omniglot", "rate", "auroc"): 0.9}, "generative_ensembles")
    odin = run("odin", "mnist", {("omniglot", "odin", "auroc"): 0.8}, "generative_ensembles", name="o")
    lines = [line for line in shown([vib, odin], "generative_ensembles", "table2") if line["out"] == "omniglot"]
    by_method = {line["method"]: line["AUROC ours"] for line in lines if line["in"] == "mnist"}
    assert by_method["vib"] == "0.900" and by_method["odin"] == "quoted"


@pytest.fixture(scope="session")
def configs(composed):
    """Every experiment that names a paper and a method of it: name -> resolved config."""
    names = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))
    found = {name: composed(f"+experiment={name}") for name in names}
    return {
        name: with_labels(OmegaConf.to_container(config, resolve=True))
        for name, config in found.items()
        if config.paper and config.paper_method
    }


def test_every_experiments_method_is_one_that_its_paper_prints(configs):
    assert {config["paper"] for config in configs.values()} >= set(PAPERS)
    for name, config in configs.items():
        methods = {item.method for table in printouts(config["paper"]).values() for item in table.items}
        assert config["paper_method"] in methods, name


def fills(config):
    """The numbers that a run of an experiment gives, as a paper's are named."""
    data, inlier = config["data"], config["data"]["inlier"]["_target_"].rpartition(".")[2]
    metrics = {
        **dict.fromkeys(config["scores"], ("auroc", "auprc", "fpr80", "fpr95")),
        **dict.fromkeys(config["means"], ("mean",)),
    }
    for score in config["scores"]:
        if score.startswith("l>"):
            metrics[score] = (*metrics[score], "nats_dim", "bpd")
    if any(probe["_target_"].endswith(".Logits") for probe in config["probes"].values()):
        metrics["class"] = ("accuracy",)
    return {
        (inlier, out, config["paper_method"], score, metric)
        for out in (inlier, *data["out"])
        for score, several in metrics.items()
        for metric in several
    }


def own_numbers(tables):
    return [(i.inlier, i.out, i.method, i.score, i.metric) for t in tables for i in t.items if not i.quoted]


@pytest.mark.parametrize("slug", PAPERS)
def test_every_number_that_a_paper_ran_is_filled_by_an_experiment(configs, slug):
    filled = set().union(*(fills(config) for config in configs.values() if config["paper"] == slug))
    own = own_numbers(printouts(slug).values())
    assert len(own) == PAPERS[slug], "as many as the papers' tables hold"
    assert not set(own) - filled


SWEEPS = sorted(
    path.stem for path in (config_dir() / "sweep").glob("*_t[ae]*.yaml")
)  # of tables, and of numbers in text


def test_every_table_with_numbers_of_its_own_has_a_sweep():
    own = {f"{slug}_{table.id}" for slug in PAPERS for table in printouts(slug).values() if own_numbers([table])}
    assert all(any(name.startswith(sweep) for sweep in SWEEPS) for name in own), own - set(SWEEPS)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_tables_sweep_fills_it(configs, name):
    slug = next(slug for slug in PAPERS if name.startswith(slug))
    asked = OmegaConf.load(config_dir() / "sweep" / f"{name}.yaml").hydra.sweeper.params["+experiment"].split(",")
    filled = [fills(configs[experiment]) for experiment in asked]
    table = next(table for table in printouts(slug).values() if table.id.startswith(name.removeprefix(f"{slug}_")))
    wanted = set(own_numbers([table]))
    assert wanted and not wanted - set().union(*filled)
    assert all(wanted & numbers for numbers in filled), "an experiment that fills nothing of the table"
