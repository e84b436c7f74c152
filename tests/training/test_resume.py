"""A killed run, repeated, ends with the weights and curves of an uninterrupted one, bit for bit.

One driver process imports torch, then forks a child for every command, so that a command costs its own work only. A
child sets traps: at the n-th call of a function it sends itself a signal.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

DRIVER = r"""
import functools, importlib, json, os, pathlib, signal, sys
import oodgen.experiment, oodgen.methods.likelihood, oodgen.plots.figures, oodgen.probes.bounds, oodgen.run
import oodgen.plots.style, oodgen.training.fit

def undrawn(figure, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("<svg/>")
    return path

oodgen.plots.style.save = undrawn  # it would take longer than all else

def trap(target, count, number, after):
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    original, calls = getattr(owner, name), [0]

    @functools.wraps(original)
    def trapped(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count and not after:
            os.kill(os.getpid(), number)
        result = original(*args, **kwargs)
        if calls[0] == count and after:
            os.kill(os.getpid(), number)
        return result

    setattr(owner, name, trapped)

for job in json.load(sys.stdin):
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        states = pathlib.Path(job["runs"]).glob("eval/*/*/state.json")
        print(json.dumps([code, [json.loads(path.read_text())["state"] for path in states]]), flush=True)
        continue
    code = 1
    try:
        with open(job["log"], "ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["oodgen", *job["arguments"]]
        oodgen.training.fit.Checkpoints = functools.partial(oodgen.training.fit.Checkpoints, seconds=job["seconds"])
        if job["trap"]:
            trap(*job["trap"])
        oodgen.run.main()
        code = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
"""

KILL, INT, TERM = 9, 2, 15
STEP = "oodgen.methods.likelihood:MaximumLikelihood.training_step"
GRADIENT = "oodgen.methods.likelihood:MaximumLikelihood.on_before_optimizer_step"
VALIDATION = "oodgen.methods.likelihood:MaximumLikelihood.validation_step"
RENAME = "pathlib:Path.replace"
ROW = "oodgen.training.curves:CurvesLogger.log_metrics"
SAVED = "oodgen.training.callback:Checkpoints.on_train_batch_end"
EPOCH = "oodgen.training.callback:Checkpoints.on_train_epoch_end"
ASK = "oodgen.evaluation.evaluate:collect_evidence"
PAGE = "oodgen.report.page:write"
PLAIN, EMA = [], ["callbacks=ema"]
FINISHED = ("plain", "after a row, between file and name, in evaluation", "by SIGTERM")


def _drive(jobs: list[dict]) -> list[tuple[int, list[str]]]:
    done = subprocess.run([sys.executable, "-c", DRIVER], input=json.dumps(jobs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _scenarios() -> dict[str, tuple[list[str], list[tuple]]]:
    """Name to options and traps of the commands before the last one, which runs through."""
    rng = random.Random(0)
    return {
        "plain": (PLAIN, []),
        "ema": (EMA, []),
        "in a step, at an epoch's end, in validation": (
            PLAIN,
            [
                (STEP, rng.randrange(2, 14)),
                (GRADIENT, 7),
                (EPOCH, 1),
                (VALIDATION, 1),
                (EPOCH, 1, True),
                (VALIDATION, 2),
            ],
        ),
        "in a step, at an epoch's end, in validation, averaging": (
            EMA,
            [
                *((STEP, rng.randrange(23, 30)), (GRADIENT, rng.randrange(2, 9)), (SAVED, 2, True)),
                *((VALIDATION, 1, True), (EPOCH, 1, True)),
            ],
        ),
        "after a row, between file and name, in evaluation": (
            PLAIN,
            [(ROW, 2, True), (RENAME, rng.randrange(4, 20)), (RENAME, rng.randrange(4, 12), True), (ASK, 3), (PAGE, 1)],
        ),
        "by SIGTERM": (PLAIN, [(STEP, 30, False, TERM), (ASK, 2, False, TERM)]),
        "by Ctrl-C": (PLAIN, [(STEP, 30, False, INT)]),
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_arguments) -> dict[str, tuple[Path, list, Path]]:
    """Each scenario's training directory, (exit code, state of the evaluation) of its commands, and log."""
    home, jobs = tmp_path_factory.mktemp("resume"), []
    for number, (name, (options, traps)) in enumerate(_scenarios().items()):
        seconds = 0.1 if name.startswith("after a row") else 0
        # the weights are what counts: but for three scenarios the last command is stopped where evaluation begins
        last = None if name in FINISHED else (ASK, 1)
        for target in [*traps, last]:
            trap = None
            if target is not None:
                function, call, after, signal = (*target, *(False, KILL)[len(target) - 2 :])
                trap = [function, call, signal, after]
            runs = home / str(number)
            job = {"arguments": [*tiny_arguments, *options, f"runs={runs}"], "runs": str(runs), "log": f"{runs}.log"}
            jobs.append(job | {"trap": trap, "seconds": seconds})
    ended = _drive(jobs)
    found = {}
    for number, name in enumerate(_scenarios()):
        log = home / f"{number}.log"
        mine = [end for end, job in zip(ended, jobs, strict=True) if job["log"] == str(log)]
        folders = list((home / str(number) / "train").glob("*"))
        assert len(folders) == 1, log.read_text()
        found[name] = (folders[0], mine, log)
    return found


@pytest.fixture(scope="module")
def tiny_arguments(tmp_path_factory, tiny_factory) -> list[str]:
    return tiny_factory(tmp_path_factory.mktemp("resume-data"))


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.parametrize("name", list(_scenarios())[2:])
def test_a_killed_run_ends_as_an_uninterrupted_one(trained, name):
    options, traps = _scenarios()[name]
    folder, ended, log = trained[name]
    straight, *_ = trained["ema" if options else "plain"]
    stopped = {"by SIGTERM": (143, ["failed"]), "by Ctrl-C": (130, ["failed"])}.get(name, (-KILL, ["running"]))
    assert [tuple(end) for end in ended[:-1]] == [stopped] * len(traps), log.read_text()
    assert tuple(ended[-1]) == ((0, ["done"]) if name in FINISHED else (-KILL, ["running"])), log.read_text()
    assert json.loads((folder / "state.json").read_text())["state"] == "done", log.read_text()
    for checkpoint in ("last", "best", "epoch2", "epoch3"):
        mine, other = (_weights(at / "checkpoints" / f"{checkpoint}.ckpt") for at in (folder, straight))
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine), checkpoint
    assert (folder / "metrics.csv").read_text() == (straight / "metrics.csv").read_text()
    names = {path.stem for path in (folder / "checkpoints").glob("*.ckpt")}
    assert names == {"last", "best", "epoch2", "epoch3"}


def test_kept_weights_are_the_averaged_ones(trained):
    plain, ema = (trained[name][0] / "checkpoints" for name in ("plain", "ema"))
    last = _weights(ema / "last.ckpt")
    assert all(torch.equal(value, last[key]) for key, value in _weights(ema / "epoch3.ckpt").items())
    assert any(not torch.equal(value, last[key]) for key, value in _weights(plain / "last.ckpt").items())


def test_curves_have_a_row_for_each_word_of_the_method(trained):
    lines = (trained["plain"][0] / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "0", "21", "43", "50", "65"]


def test_a_killed_evaluation_goes_on_without_training(trained):
    folder, _, log = trained[FINISHED[1]]
    runs = folder.parent.parent
    assert log.read_text().count("found trained") >= 2
    straight, *_ = trained["plain"]
    mine, other = (next(at.rglob("results.csv")).read_text() for at in (runs, straight.parent.parent))
    assert mine == other


@pytest.mark.parametrize("name", ["by SIGTERM", "by Ctrl-C"])
def test_a_stopped_run_says_that_it_goes_on(trained, name):
    text = trained[name][2].read_text()
    stops = len(_scenarios()[name][1])
    assert text.count("\noodgen: ") == text.count("repeat the command to resume") == stops, text
    assert "Traceback" not in text
