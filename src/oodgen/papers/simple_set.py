"""`oodgen simple-set BASIC --candidates SET...`: BPVAE's simple set, by the rule of `choice`."""

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from oodgen.config import messages
from oodgen.data.__main__ import catalogue
from oodgen.data.catalog import Dataset, load
from oodgen.errors import UserError
from oodgen.papers.choice import TrainedVAE, judge, write
from oodgen.runs import record, results
from oodgen.runs.escape import terminal
from oodgen.runs.locations import config_dir

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MissingSet", "PlannedRun", "main", "origin", "plan_run", "train_all"]

EXPERIMENT = "fashion_mnist_bpvae_plain"

Launch = Callable[[Sequence[str]], int]


class MissingSet(UserError):
    """A candidate set without usable train or test split."""


class PlannedRun(NamedTuple):
    """The run of one VAE of the comparison.

    Arguments:
        name: The set it is trained on.
        overrides: Arguments of `python -m oodgen.run`.
        folder: The evaluation's folder.
        config: The resolved config.
    """

    name: str
    overrides: list[str]
    folder: Path
    config: Mapping[str, Any]


def plan_run(name: str, sets: Sequence[str], seed: int, extra: Sequence[str] = ()) -> PlannedRun:
    """The run that trains on one of the sets and scores the others.

    Arguments:
        name: The set to train on.
        sets: All sets of the comparison.
        seed: Seed of the run.
        extra: Further overrides, the same for every run.

    Raises:
        UserError: the overrides do not fit the config.
    """
    shipped, wanted = _shipped(), set(sets) - {name}
    out = [f"~data.out.{other}" for other in sorted(shipped - wanted)]
    out += [f"+dataset@data.out.{other}={other}" for other in sets if other in wanted - shipped]
    identity = [f"+experiment={EXPERIMENT}", f"name=bpvae_simple_set_{name}", f"seed={seed}"]
    overrides = [*identity, f"dataset@data.inlier={name}", *out, *extra]
    config = _compose(overrides)
    return PlannedRun(name, overrides, Path(record.evaluation_folder(config)), config)


@cache
def _shipped() -> set[str]:
    """The out sets of the experiment's config."""
    return set(_compose([f"+experiment={EXPERIMENT}"])["data"]["out"])


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return OmegaConf.to_container(compose("run", list(overrides)), resolve=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(messages.one_line(error)) from error


def origin(plan: PlannedRun) -> str:
    """A description of the training images of a run, e.g. "official train split".

    Raises:
        MissingSet: the set has no train or test split, or its files are missing.
        UserError: its files are damaged.
    """
    dataset = catalogue()[plan.name]
    if not isinstance(dataset, Dataset):
        raise MissingSet("it has no train split of its own")
    if plan.config["smoke"]:
        return "random images (smoke)"
    found = []
    for split in ("train", "test"):
        if dataset.sizes and split not in dataset.sizes:
            raise MissingSet(f"it has no {split} split")
        try:
            found.append(load(dataset, split, Path(plan.config["data"]["root"])).origin)
        except UserError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise MissingSet(str(error).removeprefix(f"{dataset.name}: ")) from error
            raise
    return found[0]


def train_all(
    plans: Sequence[PlannedRun], launch: Launch
) -> tuple[dict[str, TrainedVAE], dict[str, str], dict[str, str]]:
    """Train all VAEs, reusing finished ones; return these, and the reasons for skipped and failed sets.

    Arguments:
        plans: The run of the basic set, then those of the candidates.
        launch: From overrides to the exit code of their run.

    Raises:
        UserError: the VAE of the basic set could not be trained.
    """
    done: dict[str, TrainedVAE] = {}
    skipped: dict[str, str] = {}
    failed: dict[str, str] = {}
    for i, plan in enumerate(plans):
        print(f"{plan.name}, {i + 1} of {len(plans)}", file=sys.stderr, flush=True)
        try:
            images = origin(plan)
            _run_to_end(plan, launch)
            done[plan.name] = TrainedVAE(
                _held_out_log_likelihoods(plan.folder), results.read(plan.folder / "results.csv"), plan.folder, images
            )
        except MissingSet as error:
            skipped[plan.name] = str(error)
        except UserError as error:
            failed[plan.name] = str(error)
        if not done:
            raise UserError(f"the basic set cannot be used, {plan.name}: {(skipped | failed)[plan.name]}")
    return done, skipped, failed


def _run_to_end(plan: PlannedRun, launch: Launch) -> None:
    """Run a plan until its evaluation is finished."""
    code = launch(plan.overrides)
    if code != 0:
        state = record.read_state(plan.folder)
        ended = state["state"] in ("failed", "diverged")
        raise UserError(f"{state['state']}: {state['why']}" if ended else f"its run ended with exit code {code}")


def _held_out_log_likelihoods(folder: Path) -> "NDArray[np.floating]":
    import numpy as np

    from oodgen.evaluation import calibration

    values = calibration.read(folder).calibration["bounds/l"][0].double().numpy()
    if len(values) < 2 or not np.isfinite(values).all():
        raise UserError("the log-likelihoods of its held-out training images are too few or not finite")
    return values


def _launch(overrides: Sequence[str]) -> int:
    """Start `python -m oodgen.run` as a process, with its resuming and exit codes."""
    child = subprocess.Popen([sys.executable, "-m", "oodgen.run", *overrides], stdout=subprocess.DEVNULL)
    try:
        return child.wait()
    except BaseException:
        child.terminate()  # it saves a checkpoint; the same command continues
        child.wait()
        raise


def _run(options: argparse.Namespace, extra: Sequence[str], launch: Launch) -> int:
    sets = list(dict.fromkeys([options.basic, *options.candidates]))
    if len(sets) < 2:
        raise UserError(f"{options.basic} has no other set to be compared with; give some with --candidates")
    plans = [plan_run(name, sets, options.seed, extra) for name in sets]
    done, skipped, failed = train_all(plans, launch)
    if len(done) < 2:
        reasons = "; ".join(f"{name}: {why}" for name, why in (skipped | failed).items())
        raise UserError(f"there is nothing to compare {options.basic} with, {reasons}")
    judged = judge({name: trained.held for name, trained in done.items()}, options.basic)
    folder = options.out or plans[0].folder.parents[2] / "simple_set" / options.basic
    write(folder, done, judged)
    print(f"{'candidate':<18} {'own mean':>9} {options.basic:>14} {'difference':>11} (95 % interval), log p(x) in nats")
    for item in judged[1:]:
        numbers = f"{item.mean:>9,.1f} {item.basic:>14,.1f} {item.difference:>+11,.1f}"
        images = done[item.name].origin
        part = "" if images.startswith("official") else f"  [{images}]"
        print(f"{item.name:<18} {numbers} ({item.low:+,.1f} to {item.high:+,.1f})  {item.verdict}{part}")
    print(folder)
    for word, which in (("skipped", skipped), ("failed", failed)):
        for name, why in which.items():
            print(f"oodgen: {word} {name}: {why.removeprefix('failed: ')}", file=sys.stderr)
    return 2 if failed else 0


def main(arguments: Sequence[str] | None = None, launch: Launch = _launch) -> int:
    """The command line; the exit code is 2 if anything could not be done."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    extra = [word for word in given if word.startswith("~") or ("=" in word and not word.startswith("-"))]
    parser = argparse.ArgumentParser(
        prog="oodgen simple-set",
        usage="%(prog)s BASIC --candidates SET [SET ...] [--seed N] [--out DIR] [key=value ...]",
        description="Choose the simple set of BPVAE: train a plain VAE on each set, compare the log-likelihoods.",
        epilog="key=value: options of `python -m oodgen.run`, the same for every VAE. The same command resumes.",
    )
    parser.add_argument("basic", metavar="BASIC", help="the in-distribution set, e.g. fashion_mnist")
    parser.add_argument("--candidates", nargs="+", required=True, metavar="SET", help="candidates for the simple set")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of every VAE (0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: RUNS/simple_set/BASIC")
    options = parser.parse_args([word for word in given if word not in extra])
    if arguments is None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return _run(options, extra, launch)
    except UserError as error:
        print(f"oodgen: {terminal(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
