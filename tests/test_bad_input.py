"""Whatever is wrong: one line that names the thing and the mend, exit code 2, nothing half-written, nothing lost."""

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors import SafetensorError

from oodgen import run
from oodgen.evaluation import evaluate
from oodgen.methods.likelihood import MaximumLikelihood
from oodgen.report import __main__ as report
from oodgen.training.checkpoints import load_weights

SMOKE = ["smoke=true", "+experiment=quickstart", "model=hvae_tiny", "device.accelerator=cpu"]


@pytest.fixture
def outs(tiny) -> list[str]:
    """A tiny run that knows nothing but one made out set."""
    return [option for option in tiny if "kmnist" not in option]


def _parts(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["+experiment=nope"], ["experiment/nope", "quickstart", "cifar_svhn_llr"]),
        (["dataset@data.inlier=nope"], ["dataset/nope", "photos", "svhn"]),
        (["+dataset@data.out.x=nope"], ["dataset/nope", "photos", "svhn"]),
        (["model=nope"], ["model/nope", "hvae_tiny"]),
        (["score@scores=nope"], ["score/nope", "did you mean none?"]),
        (["+scores.x._target_=oodgen.scores.ratio.nope"], ["scores.x", "oodgen.scores.ratio.nope"]),
        (["method=nope"], ["method/nope", "maximum_likelihood"]),
        (["modle=x"], ["'modle'; did you mean model?"]),
        (["+modle=x"], ["modle", "model"]),
        (["trainer.max_epoch=3"], ["'trainer.max_epoch'; did you mean max_epochs"]),
        (["max_epochs=3"], ["'max_epochs'; did you mean trainer.max_epochs?"]),
        (["method.lr=1"], ["'method.lr'; did you mean method.optimizer.lr?"]),
        (["trainer.zzz=1"], ["'trainer.zzz'; trainer has: max_epochs, max_steps"]),
        (["+experiment=quikstart"], ["'experiment/quikstart'; did you mean quickstart?"]),
        (["experiment=quickstart"], ["+experiment=quickstart"]),
        (["seed=abc"], ["oodgen: seed='abc' is not a whole number"]),
        (["+trainer.max_epoch=3"], ["trainer.max_epoch", "max_epochs"]),
        (["+foo=1"], ["'foo'", "seed"]),
        (["method.warmupp=1"], ["method.warmupp"]),
        (["+method.warmupp=1"], ["method", "warmupp"]),
        (["+data.sead=1"], ["data", "sead"]),
        (["+device.speed=1"], ["device.speed", "precision"]),
        (["+probes.bounds.sample=1"], ["probes.bounds", "sample"]),
        (["method.decay=crooked"], ["method.decay='crooked'", "linear"]),
        (["device.precision=16"], ["device.precision=16", "bf16"]),
        (["device.accelerator=tpu"], ["device.accelerator='tpu'", "cpu"]),
        (["trainer.gradient_clip_val=many"], ["trainer", "many"]),
        (["trainer.devices=2"], ["trainer.devices"]),
        (["+trainer.limit_train_batches=-1"], ["trainer", "limit_train_batches"]),
        (["data=folder"], ["data.inlier.root"]),
        (["seed=["], ["seed=[ is not of the form key=value: "]),
        (["seed=0,1"], ["-m", "seed=[0,1]"]),
        (["+model=hvae_tiny"], ["model is already chosen", " model=hvae_tiny "]),
        (["plugins=["], ["plugins=[ is not of the form"]),
        (["name=../../../escape"], ["oodgen: name='../../../escape' is not a single name"]),
        (["name=.."], ["oodgen: name='..' is not a single name"]),
        (["name=''"], ["oodgen: name='' is not a single name"]),
        (["+scores={../x:{_target_:oodgen.scores.ratio.llr_ada,_partial_:true}}"], ["one of scores='../x'"]),
        (["+data.out={../x:{_target_:oodgen.data.mnist.mnist}}"], ["one of data.out='../x'"]),
        (["model=null"], ["model=null is no choice; model may be: biva_grey,"]),
        (["method=7"], ["method=7 is no choice; method may be: binary_cross_entropy,"]),
        (["probes=[1]"], ["cannot apply probes=[1]: a list does not replace a group of options"]),
        (["notes={a:1}"], ["cannot apply notes={a:1}: a list does not replace a group of options, nor"]),
        (["notes.x=1"], ["cannot apply notes.x=1: "]),
        (["hydra.mode=nope"], ["cannot apply hydra.mode=nope: Invalid value 'nope', expected one of [RUN, MULTIRUN]"]),
        (["model._target_=os.system"], ["expected a Module; choose another, as model=biva_grey or model=biva_natural"]),
        (
            ["method.optimizer=adam"],
            ["returns an Optimizer; choose another, as method.optimizer._target_=torch.optim."],
        ),
        (["data.inlier=null"], ["is not a Dataset; choose another, as dataset@data.inlier=celeba or"]),
        (["~callbacks"], ["callbacks is missing"]),
        (["notes=['${nope}']"], ["notes[0]: Interpolation key 'nope' not found; correct it"]),
        (["seed=${seed}"], ["seed: Recursive interpolation detected; correct it"]),
        (["paper=${nope:x}"], ["paper: Unsupported interpolation type nope; correct it"]),
        (["name=${oc.env:OODGEN_NOPE}"], ["Environment variable 'OODGEN_NOPE' not found"]),
        (["+scores.x={_target_:oodgen.scores.evidence.Neighbours,columns:[]}"], ["config scores.x: columns=[] reads"]),
        (["model=hvae_natural_small"], ["[3, 32, 32]", "photos has [1, 28, 28]"]),
        (["scores.kl_3.layer=9"], ["kl_3", "bounds/"]),
        (["+scores.x={_target_:oodgen.scores.ratio.llr,_partial_:true}"], ["scores.x", "missing", "'k'"]),
        (["~probes.image"], ["image/"]),
        (
            ["method.optimizer._target_=torch.optim.SGD", "+method.optimizer.nesterov=true"],
            ["method.optimizer: Nesterov momentum requires a momentum"],
        ),
    ],
)
def test_a_wrong_word_is_named(command, tmp_path, arguments, words):
    ended = command("smoke=true", "device.accelerator=cpu", *arguments)
    assert ended.code == 2, ended.err
    assert all(word in ended.error for word in words), ended.error
    assert [path.name for path in tmp_path.iterdir()] in ([], ["runs"])


@pytest.mark.parametrize("words", [["seed=abc"], ["name=.."], ["logger=csv", "logger.csv.name=7"]])
def test_a_refused_run_leaves_nothing(command, tmp_path, words):
    assert command("+experiment=quickstart", *words).code == 2
    assert not list(tmp_path.rglob("eval"))


@pytest.mark.parametrize(("word", "code"), [("--help", 0), ("--cfg=job", 0), ("--package=nope", 2)])
def test_a_look_at_the_options_makes_no_folder(command, monkeypatch, word, code):
    monkeypatch.setattr(run, "TemporaryDirectory", None)  # a closed pipe ends the process, and would leave one
    assert command("+experiment=quickstart", "--cfg=job", word).code == code


PATHS = ["/data/run=3", "/data/good (1)", "/data/lot#7", "/data/lot [2]", "/data/O'Brien", "/data/照片", "~/images"]


@pytest.mark.parametrize(
    "path", [*PATHS, '/data/"a"', "/data/a,b", "/data/a\\b (1)\\", '/data/q\\"(', "/data/$HOME (`b`)"]
)
def test_an_odd_path_is_answered_with_the_word_that_works_in_a_shell(command, path):
    ended = command("+experiment=own_images", f"data.inlier.root={path}")
    assert ended.code == 2
    word = ended.error.split("as text write ")[1]
    shell = subprocess.run(["sh", "-c", f"printf %s {word}"], capture_output=True, text=True, check=True)
    again = command("+experiment=own_images", shell.stdout)
    assert f"{Path(path).expanduser()} is not a folder" in again.error


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ("- override /model: hvae_tiny\n- /probe@probes: [bounds, image]", "has a choice after an override; put"),
        ("- override /model: hvae_tiny\n- quickstart", "Overrides must be at the end of the defaults list"),
        ("- /model: hvae_tiny", "`override /model: hvae_tiny` at the end of its defaults list"),
        ("- own", "the defaults list of experiment/own is cyclic"),
    ],
)
def test_a_defaults_list_in_the_wrong_order_is_explained(command, tmp_path, choices, words):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(f"# @package _global_\ndefaults:\n{choices}\n")
    ended = command("--config-dir", str(tmp_path), "+experiment=own")
    assert ended.code == 2 and words in ended.error


@pytest.mark.parametrize(("name", "mend"), [("bestt", "is not last, best or epochN"), ("epoch9", "snapshots=[9]")])
def test_a_checkpoint_that_no_training_would_leave_costs_none(command, outs, tmp_path, name, mend):
    ended = command(*outs, f"checkpoint={name}")
    assert ended.code == 2
    assert repr(name) in ended.error and mend in ended.error
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


GAME = ["+experiment=fashion_mnist_ns_generated", "data.missing=skip"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["method.sigma=-1"], ["method.sigma=-1", "positive"]),
        (["method.sigma=x"], ["method.sigma='x' is not a number"]),
        (["method.shift=nan"], ["method.shift=nan", "finite"]),
        (["method.optimizer.lr=-1"], ["method.optimizer", "-1"]),
        (["+method.optimizer.foo=1"], ["'method.optimizer.foo'", "momentum"]),
        (["method.optimizer._target_=torch.optim.LBFGS"], ["method.optimizer", "LBFGS", "Adam"]),
        (["model.latent=1.5"], ["model.latent=1.5 is not a whole number"]),
        (["model.strides=2"], ["model.strides=2 is not a list"]),
        (["model.shape=[1,28]"], ["model.shape=[1, 28]", "[channels,height,width]"]),
        (["model.prior.mean=nan"], ["mean=nan", "finite"]),
        (["model=hvae_small"], ["NegativeSampling", "BottomUpVAE", "model=vae_grey"]),
        (["model.likelihood=gaussian"], ["likelihood@model.likelihood=gaussian"]),
        (["data.out.mnist=null"], ["data.out.mnist=null", "~data.out.mnist"]),
        (["probes.bounds=null"], ["~probes.bounds"]),
        (["data.limit=1.5"], ["data.limit=1.5", "whole number"]),
        (["+dataset@data.auxiliary.a=fashion_mnist"], ["data.auxiliary.a", "data.inlier", "~data.auxiliary.a"]),
        (
            ["+dataset@data.auxiliary.a=mnist", "+dataset@data.auxiliary.b=mnist"],
            ["auxiliary.b", "auxiliary.a", "mnist"],
        ),
        (["+dataset@data.negative=hflip"], ["data.negative=hflip", "a Dataset or null", "a Transform"]),
        (["seed=-1"], ["seed=-1"]),
        (["snapshots=5"], ["snapshots=5 is not a list"]),
        (["trainer.gradient_clip_val=1"], ["trainer.gradient_clip_val", "method.clip"]),
        (["+trainer.accumulate_grad_batches=2"], ["trainer.accumulate_grad_batches", "data.batch_size"]),
        (["-m", "+sweep=bpvae_table1,bpvae_table2"], ["another +sweep"]),
        (["+sweep=bpvae_table1", "+experiment=quickstart"], ["+experiment; use a command for each"]),
        (["+scale=cpu3", "+experiment=fashion_mnist_llr_ada_hvae"], ["+scale", "comes after +experiment"]),
    ],
)
def test_a_wrong_word_of_a_vae_is_named(command, tmp_path, arguments, words):
    ended = command("smoke=true", "device.accelerator=cpu", *GAME, *arguments)
    assert ended.code == 2, ended.err
    assert all(word in ended.error for word in words), ended.error
    assert not list((tmp_path / "runs").rglob("last.ckpt"))


@pytest.mark.parametrize(
    ("option", "word"),
    [("trainer.max_steps=0", "max_steps=0"), ("trainer.gradient_clip_val=nan", "clip_val=nan")],
)
def test_options_that_lightning_would_take_without_a_word(command, outs, tmp_path, option, word):
    ended = command(*outs, option)
    assert ended.code == 2 and word in ended.error, ended.err
    assert not list((tmp_path / "runs").rglob("last.ckpt"))


def test_a_snapshot_that_was_not_kept_says_how_to_make_it(command, done):
    arguments, *_ = done
    assert "snapshots=[9] retrain=true" in command(*arguments, "checkpoint=epoch9").error


def test_a_number_for_a_name(command, tmp_path):
    assert command(*SMOKE, "name=1").code == 0
    report.write(tmp_path / "runs" / "smoke", tmp_path / "out", [])
    assert "## 1 (smoke" in (tmp_path / "out" / "report.md").read_text()


FOREIGN = (
    "builtins.eval torch.load torch.hub.load pickle.loads subprocess.Popen oodgen.runs.files.os.system "
    "oodgen.experiment.instantiate oodgen.runs.files.Path.unlink torch.nn.modules.module.torch.load oodgen oodgenx.run "
    "pytorch_lightning.callbacks.callback.os.system oodgen.data.module.Path.unlink [oodgen.data.mnist.mnist]"
)


@pytest.mark.parametrize(
    "words",
    [
        *([f"model.likelihood._target_={target}"] for target in FOREIGN.split()),
        ["method.optimizer._target_=os.system"],
        ["+logger.x._target_=os.system"],
        ["+oracle.deep._target_=os.system"],
        ["paper=os.system", "notes=[[{_target_:${paper}}]]"],  # deep in a list, and by interpolation
    ],
)
def test_a_foreign_target_is_not_built(command, tmp_path, words):
    ended = command(*SMOKE, *words)
    assert ended.code == 2
    assert "_target_" in ended.error
    assert not list((tmp_path / "runs").rglob("last.ckpt"))


def test_missing_data_says_how_to_get_it(command, tmp_path):
    ended = command("+experiment=quickstart", "dataset@data.inlier=mnist", f"data.root={tmp_path / 'none'}")
    assert ended.code == 2
    root = str(tmp_path / "none")
    assert all(word in ended.error for word in ("mnist", root, "is missing", f"oodgen.data fetch mnist --root {root}"))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)


SPOILT = {
    "truncated": (_truncate, "cannot be read"),
    "no array": (lambda path: path.write_text("no"), "cannot be read"),
    "NaN": (lambda path: np.save(path, np.full((9, 1, 28, 28), np.nan, np.float32)), "float32"),
    "wrong shape": (lambda path: np.save(path, np.zeros((9, 1, 27, 28), np.uint8)), "(9, 1, 27, 28)"),
    "zero length": (lambda path: np.save(path, np.zeros((0, 1, 28, 28), np.uint8)), "empty"),
    "pickled": (lambda path: np.save(path, np.array([{}], object), allow_pickle=True), "cannot be read"),
}


@pytest.mark.parametrize(
    ("file", "kind"),
    [*(("mnist/train.npy", kind) for kind in SPOILT), ("mnist/test.npy", "NaN"), ("kmnist/test.npy", "truncated")],
)
def test_spoilt_data_is_named_before_training(command, tiny, tmp_path, kind, file):
    spoil, word = SPOILT[kind]
    spoil(tmp_path / "data" / "prepared" / file)
    ended = command(*tiny, "data.missing=skip")
    assert ended.code == 2
    assert file in ended.error and word in ended.error
    assert not list((tmp_path / "runs").rglob("last.ckpt"))


NEIGHBOURS = "{_target_: oodgen.scores.evidence.Neighbours, columns: [nothing*]}"
STATISTIC = "{_target_: oodgen.scores.likelihood.statistic, _partial_: true, name: nope}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["score@scores=hierarchy5"], ["score l_3 (l>3)", "level k=3 of 0..2"]),
        ([f"+scores.x={STATISTIC}"], ["score x ", "'image/nope'", "bounds/kl"]),
        ([f"+means.x={STATISTIC}"], ["score x ", "'image/nope'", "bounds/kl"]),
        ([f"+scores.x={NEIGHBOURS}"], ["score x needs 'nothing*', which no probe provides", "bounds/kl"]),
        (["objective.metric=loss"], ["objective.metric=loss is not in the results; available: nats", "information"]),
        (
            ["objective.score=z4", "objective.set=kmnist"],
            ["objective.score=z4 is not in the results", ", z1, z2, z3"],
        ),
        (["objective.set=nope"], ["objective.set=nope is not in the results; available: mnist, kmnist, hflip"]),
        (["objective.set=kmnist"], ["objective.score is not set; choose one of: l_0 (l>0)"]),
    ],
)
def test_a_score_that_cannot_be_told_is_refused_before_training(command, tiny, tmp_path, options, words):
    ended = command(*tiny, "score@scores=hierarchy", *options)
    assert ended.code == 2
    assert all(word in ended.error for word in words), ended.error
    assert not list((tmp_path / "runs").rglob("*.ckpt")) and not list((tmp_path / "runs").rglob("*.safetensors"))


def test_altered_data_is_named(command, tiny, tmp_path):
    path = tmp_path / "data" / "prepared" / "kmnist" / "test.npy"
    assert command(*tiny, "method.decay=crooked").code == 2  # before any data were opened
    from oodgen.data import catalog, mnist

    catalog.load(mnist.kmnist(), "test", tmp_path / "data")  # records the hash
    _alter(path)
    ended = command(*tiny)
    assert ended.code == 2 and "kmnist/test.npy is not the file that was recorded" in ended.error


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda home: None, "no image"),
        (lambda home: [(home / f"{i}.png").write_bytes(b"not a picture") for i in range(20)], ".png"),
        (lambda home: Image.new("L", (9, 9)).save(home / "a.png"), "split"),
    ],
)
def test_a_spoilt_folder_is_named(command, tmp_path, spoil, word):
    home = tmp_path / "images"
    home.mkdir()
    spoil(home)
    ended = command("+experiment=own_images", f"data.inlier.root={home}", f"data.root={tmp_path}")
    assert ended.code == 2
    assert word in ended.error and str(home) in ended.error


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Where the runs of the first finished tiny run are kept for the others."""
    return tmp_path_factory.mktemp("finished") / "runs"


@pytest.fixture
def done(command, outs, tmp_path, finished):
    """A finished tiny run: its command, training directory and evaluation directory."""
    runs = tmp_path / "runs"
    if finished.exists():
        shutil.copytree(finished, runs)
    else:
        assert command(*outs, "trainer.max_epochs=1").code == 0
        shutil.copytree(runs, finished)
    return [*outs, "trainer.max_epochs=1"], next(runs.glob("train/*")), next(runs.glob("eval/*/*"))


def test_damaged_files_of_a_run(command, done, tmp_path):
    arguments, train, evaluation = done
    rows = (evaluation / "results.csv").read_text()
    # what can be made again is made again
    for spoil in (
        lambda: (evaluation / "results.csv").write_text("experiment\n1\n"),
        lambda: (evaluation / "results.csv").unlink(),
        lambda: (evaluation / "report.html").unlink(),
        lambda: (
            [_truncate(path) for path in [*(train / "evidence").iterdir(), evaluation / "state.json"][:-1]]
            and (evaluation / "results.csv").unlink()
        ),
    ):
        spoil()
        ended = command(*arguments)
        assert ended.code == 0, ended.err
        assert (evaluation / "results.csv").read_text() == rows
        assert "validation bound" not in ended.err, "nothing was trained again"
    # what cannot is named
    for path in (evaluation / "state.json", train / "state.json", train / "provenance.json"):
        kept = path.read_text()
        (evaluation / "report.html").unlink(missing_ok=True)
        path.write_text("{")
        ended = command(*arguments)
        assert ended.code == 2 and f"{path} is damaged; delete it and repeat the command" in ended.error
        path.unlink()
        ended = command(*arguments)
        assert ended.code == 0, ended.err
        assert (evaluation / "results.csv").read_text() == rows, kept


def test_a_run_in_use_is_left_alone(command, done):
    arguments, _, evaluation = done
    (evaluation / "report.html").unlink()
    before = (evaluation / "state.json").read_text()
    with FileLock(evaluation / ".lock"):
        ended = command(*arguments)
    assert ended.code == 2 and f"{evaluation} is in use by another process" in ended.error
    assert (evaluation / "state.json").read_text() == before


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("where", ["resumed", "scored"])
@pytest.mark.parametrize("kind", ["hostile", "pickle", "truncated", "another architecture", "no checkpoint"])
def test_a_bad_checkpoint_is_refused(command, done, tmp_path, kind, where):
    arguments, train, evaluation = done
    last, ran = train / "checkpoints" / "last.ckpt", tmp_path / "ran"
    content = torch.load(last, weights_only=True)
    if kind == "hostile":
        torch.save({**content, "evil": Evil(ran)}, last)
    elif kind == "pickle":
        last.write_bytes(pickle.dumps(Evil(ran)))
    elif kind == "truncated":
        _truncate(last)
    elif kind == "another architecture":
        name = next(iter(content["state_dict"]))
        content["state_dict"][name] = content["state_dict"][name][:-1]
        torch.save(content, last)
    else:
        torch.save([1], last)
    (evaluation / "report.html").unlink()
    if where == "resumed":
        (train / "state.json").write_text('{"state": "running", "why": null}')
    ended = command(*arguments)
    assert ended.code == 2
    assert str(last) in ended.error
    assert not ran.exists()
    if kind == "hostile":
        assert "could run code" in ended.error and "weights_only" not in ended.error
    if kind != "truncated":
        return
    last.unlink()
    ended = command(*arguments)
    assert ended.code == 0, ended.err


def test_weights_of_another_architecture_are_named(done, tmp_path):
    _, train, _ = done
    model = torch.nn.Linear(2, 2)
    with pytest.raises(Exception, match="of another architecture: only the model has weight"):
        load_weights(model, train / "checkpoints" / "last.ckpt")


def test_no_such_checkpoint_lists_what_there_is(command, done):
    arguments, *_ = done
    ended = command(*arguments, "checkpoint=epoch9")
    assert ended.code == 2
    assert "no checkpoint 'epoch9'" in ended.error and "best, last" in ended.error


def test_divergence_is_final_and_keeps_the_good(command, outs, tmp_path, monkeypatch):
    original = MaximumLikelihood.on_before_optimizer_step

    def wild(self, optimizer):
        original(self, optimizer)
        if self.global_step == 30:  # in the second epoch: the first one leaves a checkpoint
            optimizer.param_groups[0]["lr"] = 1e30

    monkeypatch.setattr(MaximumLikelihood, "on_before_optimizer_step", wild)
    ended = command(*outs)
    assert ended.code == 2
    assert "not finite at step 31, in " in ended.error and "learning rate" in ended.error
    (train,) = (tmp_path / "runs").glob("train/*")
    last = train / "checkpoints" / "last.ckpt"
    assert str(last) in ended.error
    assert all(value.isfinite().all() for value in torch.load(last, weights_only=True)["state_dict"].values())
    for state in (train / "state.json", next((tmp_path / "runs").glob("eval/*/*/state.json"))):
        assert json.loads(state.read_text())["state"] == "diverged"
    steps = []
    monkeypatch.setattr(MaximumLikelihood, "training_step", lambda self, *_: steps.append(1))
    again = command(*outs)
    assert again.code == 2 and not steps
    assert "not finite at step 31" in again.error and "retrain=true starts over" in again.error
    monkeypatch.undo()


def test_a_learning_rate_beyond_all_bounds(command, outs):
    ended = command(*outs, "method.optimizer.lr=1e30")
    assert ended.code == 2
    assert "not finite at step 1, in " in ended.error and "no checkpoint yet" in ended.error


@pytest.mark.parametrize("full", [True, False])
def test_the_unexpected_is_one_line_and_a_traceback_in_the_log(command, outs, tmp_path, monkeypatch, full):
    def broken(*_):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(evaluate, "result_rows", broken)
    if full:
        with pytest.raises(RuntimeError, match="two"):
            command(*outs, "trainer.max_epochs=1", full_error=True)
        return
    ended = command(*outs, "trainer.max_epochs=1")
    (log,) = (tmp_path / "runs").glob("eval/*/*/log.txt")
    assert ended.error == f"oodgen: RuntimeError: two lines (the traceback is in {log})"
    assert "Traceback" in log.read_text()


def test_a_full_disk_while_writing_evidence(command, outs, tmp_path, monkeypatch):
    saved = []

    def save(content, path, *further):
        saved.append(path)
        if len(saved) == 3:
            Path(path).write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        original(content, path, *further)

    original = evaluate.save_file
    monkeypatch.setattr(evaluate, "save_file", save)
    ended = command(*outs, "trainer.max_epochs=1")
    assert ended.code == 2 and "cannot write evidence" in ended.error and "free some space" in ended.error
    assert not _parts(tmp_path / "runs")
    monkeypatch.undo()
    again = command(*outs, "trainer.max_epochs=1")
    assert again.code == 0 and "found trained" in again.err


def test_a_full_disk_while_writing_curves(command, outs, tmp_path, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, text):
            self.file.write(text[:9])
            self.file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    original = Path.open

    def open_(path, mode="r", *args, **kwargs):
        file = original(path, mode, *args, **kwargs)
        return Full(file) if path.name == "metrics.csv" and mode == "a" else file

    monkeypatch.setattr(Path, "open", open_)
    ended = command(*outs)
    monkeypatch.undo()
    (curves,) = (tmp_path / "runs").rglob("metrics.csv")
    assert ended.code == 2 and f"cannot write {curves}: No space left on device" in ended.error
    assert not curves.read_text().endswith("\n"), "a torn line"
    assert command(*outs).code == 0
    assert [line.split(",")[0] for line in curves.read_text().splitlines()] == ["step", "0", "21", "43", "50", "65"]


@pytest.mark.parametrize(
    ("owner", "name", "words"),
    [
        (MaximumLikelihood, "training_step", ["while training", "reduce data.batch_size=16"]),
        (evaluate, "collect_evidence", ["while scoring", "+probes.bounds.budget"]),
    ],
)
def test_a_device_without_memory_left(command, outs, tmp_path, monkeypatch, owner, name, words):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nSee the documentation")

    monkeypatch.setattr(owner, name, full)
    ended = command(*outs, "trainer.max_epochs=1")
    monkeypatch.undo()
    assert ended.code == 2 and ended.error.count("\n") <= 1
    assert all(word in ended.error for word in (*words, "9 GiB"))
    assert command(*outs, "trainer.max_epochs=1", "+probes.bounds.budget=9").code == 0


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting needs root")
@pytest.mark.parametrize("size", ["4k", "60k", "400k"])
def test_a_disk_that_is_really_full(command, outs, tmp_path, monkeypatch, size):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this container may not mount")
    try:
        ended = command(*outs, "trainer.max_epochs=1", f"runs={disk}")
        assert ended.code == 2
        assert "free some space" in ended.error and str(disk) in ended.error
        assert not _parts(disk)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        again = command(*outs, "trainer.max_epochs=1", f"runs={disk}")
        assert again.code == 0, again.err
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_folder_that_cannot_be_written(command, tmp_path):
    (tmp_path / "file").write_text("")
    ended = command(*SMOKE, f"runs={tmp_path / 'file'}")
    assert ended.code == 2
    assert str(tmp_path / "file") in ended.error and "runs=DIR" in ended.error


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["+experiment=nope"], 2, "oodgen: could not find 'experiment/nope'; experiment may be: cifar10_bpvae,"),
        (["+experiment=quickstart", "smok=true"], 2, "oodgen: there is no option 'smok'; did you mean smoke?"),
        (["-m", "+experiment=quickstart", "seeds=0,1"], 2, "oodgen: there is no option 'seeds'; did you mean seed?"),
        (["quickstart"], 2, "missing EQUAL at '<EOF>'\n"),
        (["--help"], 0, "oodgen +experiment=quickstart"),
        ([], 0, "fashion_mnist_llr_cpu"),
        (["+experiment=quickstart", "--cfg", "job"], 0, "_target_: oodgen.methods"),
    ],
)
def test_a_true_process_starts_without_torch(tmp_path, arguments, code, word):
    script = "import sys, runpy; sys.modules['torch'] = sys.modules['pytorch_lightning'] = None\n"
    script += f"sys.argv = ['oodgen', *{arguments!r}]\nrunpy.run_module('oodgen.run', run_name='__main__')"
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    call = [sys.executable, "-c", script]
    ended = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert ended.returncode == code, ended.stderr
    assert word in (ended.stderr if code else ended.stdout)
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())
