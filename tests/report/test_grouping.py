"""What a run was trained against, which runs belong together, what they are called and what they warn of."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from oodgen.report import grouping
from oodgen.runs import results
from oodgen.runs.locations import config_dir

LETTERS = {"_target_": "oodgen.data.mnist.emnist_letters"}
FOLDER = {"_target_": "oodgen.data.folder.folder", "root": "rejects"}
OMNIGLOT = {"_target_": "oodgen.data.omniglot.omniglot"}


def flat(config, prefix=""):
    if not isinstance(config, dict):
        return {prefix: str(config)}
    parts = [flat(value, f"{prefix}.{key}" if prefix else key) for key, value in config.items()]
    return {key: value for part in parts for key, value in part.items()}


@pytest.mark.parametrize(
    ("data", "method", "expected"),
    [
        ({"negative": None, "auxiliary": {}}, {}, []),
        ({"negative": LETTERS, "out": {}}, {"negatives": "dataset"}, ["emnist_letters"]),
        ({"auxiliary": {"simple": LETTERS, "second": OMNIGLOT}}, {}, ["emnist_letters", "omniglot"]),
        ({"negative": None}, {"negatives": "generated"}, ["generated images"]),
        # the name that the tables have for it, where it is tested with too
        ({"negative": FOLDER, "out": {"rejects": FOLDER}}, {"negatives": "dataset"}, ["rejects"]),
        ({"negative": FOLDER, "out": {"mine": {**FOLDER, "root": "mine"}}}, {}, ["folder"]),
        # an inverted set is not the set it was made of
        (
            {
                "auxiliary": {"omniglot": {"_target_": "oodgen.data.inverted.inverted", "dataset": OMNIGLOT}},
                "out": {"omniglot": OMNIGLOT},
            },
            {},
            ["omniglot_inverted"],
        ),
    ],
)
def test_what_a_run_was_trained_against(data, method, expected):
    assert grouping.trained_against(flat({"data": data, "method": method})) == expected


def run(seed=0, overrides=None, warnings=None, folder="f", **config):
    """A finished run of the experiment e, with the overrides of its command where they are known."""
    record = {"experiment": "e", "seed": seed, "method": "vae"}
    record |= {} if overrides is None else {"overrides": ["+experiment=e", f"seed={seed}", *overrides]}
    record |= {} if warnings is None else {"warnings": warnings}
    nan = float("nan")
    rows = [results.Row("e", "f", seed, "photos", "digits", "l>0", "auroc", 0.5, nan, nan, "full", 9, 9)]
    return grouping.Run(
        Path(folder), record, {key.replace("__", "."): str(value) for key, value in config.items()}, rows
    )


def titles(*runs):
    return {group.name: sorted(group.runs) for group in grouping.experiments(runs)}


def test_a_changed_option_shows_in_the_title_of_a_run_that_stands_alone():
    assert titles(run(overrides=["method.sigma_s=5"], method__sigma_s=5)) == {"e (method.sigma_s=5)": [""]}
    assert titles(run(overrides=[], method__sigma_s=1)) == titles(run(method__sigma_s=1)) == {"e": [""]}
    both = [run(i, ["method.sigma_s=5"], method__sigma_s=5, trainer__max_epochs=e) for i, e in enumerate((20, 100))]
    assert titles(*both) == {"e (method.sigma_s=5)": ["100", "20"]}, "a study of the budget, all with that sigma"


def test_variants_are_named_by_their_commands_and_further_where_two_asked_for_the_same():
    wide, fast = {"model__width": 32, "model__z": 8, "lr": 1}, {"model__width": 16, "model__z": 4, "lr": 2}
    assert set(titles(run(0, ["model=wide"], **wide), run(0, ["lr=2"], **fast))) == {"e (model=wide)", "e (lr=2)"}
    old = {**wide, "lr": 3, "model__z": 9}  # which the width does not tell from the first
    named = titles(run(0, ["model=wide"], **wide), run(0, ["model=wide"], **old), run(0, ["lr=2"], **fast))
    assert set(named) == {"e (lr=2)"} | {f"e (model=wide, lr={n}, model.z={z})" for n, z in ((1, 8), (3, 9))}


def test_a_run_whose_config_is_lost_does_not_spell_out_that_of_the_others():
    wide, fast = {"model__width": 32, "model__z": 8, "lr": 1}, {"model__width": 16, "model__z": 4, "lr": 2}
    others = [run(seed, ["model=wide"], **wide) for seed in (0, 1)] + [run(0, ["lr=2"], **fast)]
    lost = run(2, ["model=wide"])
    found = grouping.experiments([*others, lost])
    assert {group.name: len(group.members) for group in found} == {"e (model=wide)": 3, "e (lr=2)": 1}
    # the same seed once more is another run
    again = run(1, ["model=wide"], folder="g")
    assert set(titles(*others, again)) == {"e (model=wide)", "e (model=wide, f)", "e (model=wide, g)", "e (lr=2)"}


def test_how_it_was_computed_sets_runs_apart_only_where_nothing_else_does():
    cpu, gpu = {"device__accelerator": "cpu"}, {"device__accelerator": "gpu"}
    assert titles(run(0, **cpu), run(1, **gpu)) == {"e": [""]}
    assert titles(run(0, **cpu), run(0, **gpu)) == {"e": ["cpu", "gpu"]}
    ((group,),) = [grouping.experiments([run(0, **cpu, samples=1), run(0, **gpu, samples=2)])]
    assert group.key == "samples"


def test_what_later_versions_add_to_an_experiment_does_not_set_its_seeds_apart():
    new = {"data__out__isun___target_": "isun", "scores__evidence__columns": "all", "probes__path__samples": 1}
    for added in (new, {"data__out__isun___target_": "isun"}):
        assert titles(run(0, [], lr=1), run(1, [], lr=1, **added), run(2, [], lr=1, **added)) == {"e": [""]}
    # unless it differs where both have it
    assert titles(run(0, [], probes__path__samples=2), run(1, [], **new), run(2, [], **new)).keys() != {"e"}
    assert titles(run(0, [], scores__x__k=1), run(0, [], scores__x__k=2)) == {"e": ["1", "2"]}


def test_two_seeds_of_a_real_config_are_one_experiment():
    runs = []
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        for seed in (0, 1):
            made = compose("run", ["+experiment=quickstart", f"seed={seed}"])
            runs.append(run(seed)._replace(config=flat(OmegaConf.to_container(made, resolve=True))))
    assert titles(*runs) == {"e": [""]}


def test_a_warning_is_said_once_and_with_its_seeds_where_not_all_have_it():
    runs = [run(0, warnings=["a", "b", "b"]), run(1, warnings=["a"]), run(2, warnings=["a", "b", "c in /home/me/x"])]
    assert grouping.warnings(runs) == ["a", "seeds 0, 2: b", "seed 2: c in x"]
    assert grouping.warnings(runs[:1]) == ["a", "b"] and grouping.warnings([run()]) == []
