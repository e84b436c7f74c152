"""The command that chooses the simple set: which cells it runs, what it makes of those that fail, and one real pass."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from oodgen.papers import simple_set
from oodgen.runs import record, results

SETS = ["fashion_mnist", "mnist", "gtsrb"]
BOUNDS = {"fashion_mnist": -300.0, "mnist": -120.0, "gtsrb": -500.0}


def prepared(root, name, train=True, shape=(1, 28, 28)):
    folder = root / "prepared" / name
    folder.mkdir(parents=True)
    for split in ("train", "test") if train else ("test",):
        np.save(folder / f"{split}.npy", np.zeros((3, *shape), np.uint8))


@pytest.fixture
def root(tmp_path):
    """A data root that holds all of the sets."""
    for name in SETS:
        prepared(tmp_path / "data", name, shape=(3, 32, 32) if name == "gtsrb" else (1, 28, 28))
    return tmp_path / "data"


@pytest.fixture
def launch(tmp_path):
    """Pretends to run cells: `launch.ends[name]` says how, "done" otherwise; `launch.seen` is what was asked for."""

    def run(overrides):
        name = next(o.partition("=")[2] for o in overrides if o.startswith("dataset@data.inlier="))
        run.seen[name] = overrides
        folder = Path(record.evaluation_folder(simple_set._compose(overrides)))
        folder.mkdir(parents=True, exist_ok=True)
        state = run.ends.get(name, "done")
        if state == "killed":
            return -9
        (folder / "state.json").write_text(json.dumps({"state": state, "why": None if state == "done" else "nan at 7"}))
        if state != "done":
            return 2
        values = torch.linspace(-50, 50, 101)[None] + BOUNDS[name]
        if name in run.broken:
            values[0, 3] = torch.nan
        # the validation part and the test sets lie elsewhere: the rule must look at neither
        about = {"conversion": [[1, 28, 28], True, [32, 32]], "inlier": name, "weights": "w"}
        parts = {"calibration/bounds/l": values, "validation/bounds/l": 0 * values}
        save_file(parts, folder / "calibration.safetensors", {key: json.dumps(value) for key, value in about.items()})
        lines = [",".join(results.Row._fields)]
        lines += [f"e,f,0,{name},{out},l>0,nats,{BOUNDS[name] / 2},,,full,9,9" for out in SETS]
        (folder / "results.csv").write_text("\n".join(lines) + "\n")
        return 0

    run.ends, run.seen, run.broken = {}, {}, ()
    return run


@pytest.fixture
def call(root, launch, tmp_path, capsys):
    """Runs the command over the sets; returns exit code, output and errors."""

    def run(*words):
        code = simple_set.main([*words, f"data.root={root}", f"runs={tmp_path / 'runs'}"], launch)
        return code, *capsys.readouterr()

    return run


def test_each_set_is_trained_on_once_and_scored_on_all_the_others():
    for name in ("fashion_mnist", "mnist", "emnist_letters"):
        sets = ["fashion_mnist", "mnist", "emnist_letters", "svhn"]
        config = simple_set.plan_run(name, sets, 3).config
        assert set(config["data"]["out"]) == set(sets) - {name}
        assert config["data"]["inlier"]["_target_"].endswith(f".{name}")
        assert (config["seed"], config["data"]["grey"], config["data"]["size"]) == (3, True, [32, 32])
        assert config["method"]["_target_"] == "oodgen.methods.bpvae.BPVAE" and not config["data"]["auxiliary"]


def test_the_basic_sets_vae_is_the_plain_vae_of_the_tables():
    plain = simple_set._compose([f"+experiment={simple_set.EXPERIMENT}", "seed=1"])
    planned = simple_set.plan_run("fashion_mnist", SETS, 1).config
    assert record.fingerprint(planned) == record.fingerprint(plain)


def test_the_rule_is_told_in_a_line_for_each_candidate(call, tmp_path):
    code, out, _ = call("fashion_mnist", "--candidates", "mnist", "gtsrb")
    assert code == 0
    _, mnist, gtsrb, folder = out.splitlines()
    assert mnist.split()[:4] == ["mnist", "-120.0", "-300.0", "+180.0"] and "  qualifies" in mnist
    assert gtsrb.split()[:4] == ["gtsrb", "-500.0", "-300.0", "-200.0"] and "  does not" in gtsrb
    assert folder == str(tmp_path / "runs" / "simple_set" / "fashion_mnist")
    assert len(list((tmp_path / "runs" / "simple_set" / "fashion_mnist").iterdir())) == 4


def test_a_difference_that_could_be_none_is_undecided(call, monkeypatch):
    monkeypatch.setitem(BOUNDS, "mnist", BOUNDS["fashion_mnist"] + 1)
    _, out, _ = call("fashion_mnist", "--candidates", "mnist")
    assert "  undecided" in out.splitlines()[1]


def test_options_of_runs_may_stand_anywhere_and_reach_every_cell(call, launch, tmp_path):
    options = ["trainer.max_epochs=1", "fashion_mnist", "--candidates", "mnist", "data.limit=9", "--seed", "5"]
    assert call(*options, "--out", str(tmp_path / "there"))[0] == 0
    assert (tmp_path / "there" / "simple_set.csv").is_file()
    for overrides in launch.seen.values():
        assert {"trainer.max_epochs=1", "data.limit=9", "seed=5"} <= set(overrides)


@pytest.mark.parametrize(("end", "words"), [("diverged", "diverged: nan at 7"), ("killed", "exit code -9")])
def test_a_candidate_that_fails_is_named_and_the_others_are_judged(call, launch, end, words):
    launch.ends["mnist"] = end
    code, out, err = call("fashion_mnist", "--candidates", "mnist", "gtsrb")
    assert code == 2 and f"oodgen: failed mnist: {words}" in err.replace("its run ended with ", "")
    assert [line.split()[0] for line in out.splitlines()[1:-1]] == ["gtsrb"] and set(launch.seen) == set(SETS)


def test_numbers_that_are_none_are_a_failure_and_no_verdict(call, launch):
    launch.broken = ("mnist",)
    code, out, err = call("fashion_mnist", "--candidates", "mnist", "gtsrb")
    assert code == 2 and "failed mnist" in err and "not finite" in err and "qualifies" not in out


def test_a_set_without_a_train_split_is_skipped_by_name_and_still_scored(call, launch, root):
    (root / "prepared" / "gtsrb" / "train.npy").unlink()
    code, out, err = call("fashion_mnist", "--candidates", "mnist", "gtsrb", "hflip")
    assert code == 0 and set(launch.seen) == {"fashion_mnist", "mnist"}
    assert "skipped gtsrb: no train split" in err and "skipped hflip: it has no train split" in err
    assert "qualifies" in out and "+dataset@data.out.hflip=hflip" in launch.seen["mnist"]


def test_no_candidate_at_all_is_an_error(call):
    code, out, err = call("fashion_mnist", "--candidates", "hflip")
    assert code == 2 and "qualifies" not in out
    assert err.splitlines()[-1].startswith("oodgen: there is nothing to compare fashion_mnist with, hflip: it has no")


def test_a_damaged_set_is_no_absent_one(call, root):
    (root / "prepared" / "gtsrb" / "train.npy").write_bytes(b"cut")
    code, _, err = call("fashion_mnist", "--candidates", "mnist", "gtsrb")
    assert code == 2 and "failed gtsrb" in err


def test_nothing_is_trained_after_the_basic_set_failed(call, launch):
    launch.ends["fashion_mnist"] = "failed"
    code, out, err = call("fashion_mnist", "--candidates", "mnist", "gtsrb")
    assert code == 2 and not out and set(launch.seen) == {"fashion_mnist"}
    assert err.splitlines()[-1].startswith("oodgen: the basic set cannot be used, fashion_mnist: failed: nan at 7")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fashion_mnist", "--candidates", "nothing"], "dataset/nothing"),
        (["fashion_mnist", "--candidates", "kmnits"], "could not find 'dataset/kmnits'; did you mean kmnist"),
        (["fashion_mnist", "--candidates", "mnist", "max_epochs=1"], "did you mean trainer.max_epochs?"),
        (["fashion_mnist", "--candidates", "mnist", "trainer.max_epoch=1"], "trainer.max_epoch"),
        (["fashion_mnist", "--candidates", "fashion_mnist"], "no other set to be compared"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_trained(call, launch, words, said):
    code, out, err = call(*words)
    assert code == 2 and not out and not launch.seen
    assert said in err and err.count("\n") == 1 and "search path" not in err


def test_a_cell_is_a_process_of_its_own_with_the_exit_code_of_a_run(monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)  # as runs in this process leave it
    assert simple_set._launch(["+experiment=nothing"]) == 2


def test_one_real_pass(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OODGEN_RUNS", str(tmp_path / "runs"))
    words = ["fashion_mnist", "--candidates", "mnist", "smoke=true", "device.threads=1", "device.accelerator=cpu"]
    assert simple_set.main(words, lambda overrides: command(*overrides).code) == 0
    out = capsys.readouterr().out
    assert "[random images (smoke)]" in out
    assert len(list((tmp_path / "runs" / "smoke" / "simple_set" / "fashion_mnist").iterdir())) == 4
