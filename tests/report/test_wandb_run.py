"""What arrives on W&B: read back from the log that an offline run leaves on disk."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import WandbLogger

from oodgen import experiment
from oodgen.errors import UserError
from oodgen.metrics import auroc
from oodgen.report import wandb_run
from oodgen.runs import results
from oodgen.runs.locations import config_dir

OVERRIDES = ["+experiment=quickstart", "smoke=true", "logger=wandb", "device.threads=1"]
OVERRIDES += [f"~data.out.{name}" for name in ("glyphs", "uniform_noise", "gaussian_noise", "hflip", "vflip")]


class Logged(NamedTuple):
    """One run as W&B wrote it down."""

    run: dict
    config: dict
    history: list[dict]
    summary: dict
    metrics: list[dict]
    charts: dict
    code: int | None
    files: Path

    def column(self, name):
        return [(row["trainer/global_step"], row[name]) for row in self.history if name in row]

    def table(self, key):
        named = {path for row in self.history for name, path in row.items() if name == f"{key}.path"}
        return json.loads((self.files / named.pop()).read_text())


def read(folder: Path) -> Logged:
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(next(folder.glob("*.wandb")))],
        capture_output=True,
        text=True,
        check=True,
    )
    found = Logged({}, {}, [], {}, [], {}, None, folder / "files")
    code = None
    for line in done.stdout.splitlines():
        record = json.loads(line)
        content = record.get(record["type"], {})
        if record["type"] == "run":
            found.run.update(content)
            found.config.update(content.get("config", {}).get("update", {}))
        elif record["type"] == "config":
            for key, value in content["update"].items():
                if key.startswith("_wandb.visualize."):
                    found.charts[key.removeprefix("_wandb.visualize.")] = value["panel_config"]
                else:
                    found.config[key] = value
        elif record["type"] == "history":
            found.history.append(content["item"])
        elif record["type"] == "summary":
            found.summary.update(content["update"])
        elif record["type"] == "metric":
            found.metrics.append(content)
        elif record["type"] == "exit":
            code = content.get("exit_code", 0)
    return found._replace(code=code)


def config(runs: Path, *overrides: str):
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("run", [*OVERRIDES, f"runs={runs}", *overrides])


@pytest.fixture(scope="module", autouse=True)
def private():
    """No key of the machine's user, and no trace of Lightning's WANDB_MODE in other tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY"):
            patch.delenv(name, raising=False)
        patch.setenv("WANDB_MODE", "online")
        patch.setenv("NETRC", os.devnull)
        patch.setattr(rank_zero_only, "rank", 1)  # as in a process that finds RANK=1 in its environment
        yield


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two cells after one another in this process, then one that fails in training."""
    runs = tmp_path_factory.mktemp("runs")
    folders = [runs / "first", runs / "second", runs / "third"]
    experiment.run(config(runs), folders[0])
    experiment.run(config(runs, "seed=1"), folders[1])
    with pytest.MonkeyPatch.context() as patch:

        def broken(*_args, **_more):
            raise RuntimeError("no")

        patch.setattr(experiment, "fit", broken)
        with pytest.raises(RuntimeError):
            experiment.run(config(runs, "seed=2"), folders[2])
    logged = [read(path) for path in sorted((runs / "wandb").glob("offline-run-*"))]
    return runs, folders, {run.config["seed"]: run for run in logged}, logged


def test_every_cell_is_a_run_of_its_own_and_finished(two):
    _, _, by_seed, logged = two
    assert len(logged) == 3
    assert {seed: run.code for seed, run in by_seed.items()} == {0: 0, 1: 0, 2: 1}
    assert {run.run["display_name"] for run in logged} == {f"quickstart-seed{seed}" for seed in range(3)}
    assert {run.run["run_group"] for run in logged} == {"quickstart"}
    assert all(run.run["tags"] == ["smoke"] for run in logged)


def test_the_config_is_plain_and_nested(two):
    _, _, by_seed, _ = two
    logged = by_seed[1].config
    assert logged["method"]["optimizer"]["lr"] == 1e-3
    assert logged["model"]["layers"][0]["channels"] == 32
    assert len(logged["fingerprint"]) == 12 and logged["fingerprint"] != by_seed[0].config["fingerprint"]


def test_curves_have_the_steps_of_training(two):
    _, _, by_seed, _ = two
    run = by_seed[0]
    assert {
        "glob_name": "*",
        "options": {"defined": True, "step_sync": True},
        "step_metric": "trainer/global_step",
    } in run.metrics
    assert run.column("train/bound")[0][0] == 0
    assert all(step < 2 for step, _ in run.column("train/bound"))
    for name in ("train/kl_1", "train/kl_3", "beta"):
        assert len(run.column(name)) == len(run.column("train/bound"))


def test_roc_and_histograms_of_every_score(two):
    _, folders, by_seed, _ = two
    rows = [row for row in results.read(folders[0] / "results.csv") if row.metric == "auroc" and row.protocol == "full"]
    scores = {row.score for row in rows if not row.score.startswith("control:")}
    assert {"l>0", "llr_ada"} <= scores
    assert {f"{kind}/{score}" for kind in ("roc", "histograms") for score in scores} == set(by_seed[0].charts)
    table = by_seed[0].table("Custom Chart Tables/roc/l>0_table")
    assert table["columns"] == ["out", "false positive rate", "true positive rate"]
    for row in (row for row in rows if row.score == "l>0"):
        x, y = zip(*[(x, y) for name, x, y in table["data"] if name == row.out], strict=True)
        assert np.trapezoid(y, x) == pytest.approx(row.value, abs=1e-4)
    table = by_seed[0].table("Custom Chart Tables/histograms/l>0_table")
    for name in ("photos", "digits"):
        assert sum(y for set_, _, y in table["data"] if set_ == name) == pytest.approx(1, abs=1e-3)


def test_pictures_page_and_results(two):
    _, folders, by_seed, _ = two
    run, last = by_seed[0], by_seed[0].history[-1]
    assert last["reconstructions/photos._type"] == last["reconstructions/digits._type"] == "image-file"
    assert (run.files / last["reconstructions/digits.path"]).read_bytes()[:4] == b"\x89PNG"
    assert last["figures/densities._type"] == last["report._type"] == "html-file"
    table = run.table("results")
    lines = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
    rows = [row for row in results.read(folders[0] / "results.csv") if row.metric == "auroc"]
    assert len(lines) == len(rows)
    one = next(
        line for line in lines if (line["out"], line["score"], line["protocol"]) == ("digits", "llr_ada", "full")
    )
    value = next(row.value for row in rows if (row.out, row.score, row.protocol) == ("digits", "llr_ada", "full"))
    assert one["auroc"] == value == run.summary["auroc/digits/llr_ada"]
    assert (one["experiment"], one["seed"]) == ("quickstart", 0)


def test_a_training_found_done_still_shows_its_curves(two):
    runs, folders, by_seed, _ = two
    before = set((runs / "wandb").glob("offline-run-*"))
    experiment.run(config(runs, "seed=1", "eval_seed=5"), folders[1].with_name("again"))
    (new,) = set((runs / "wandb").glob("offline-run-*")) - before
    curve = read(new).column("train/bound")
    assert curve == [(0, pytest.approx(by_seed[1].column("train/bound")[0][1], rel=1e-5))]


def test_without_a_key_online_is_one_line(tmp_path):
    settings = {"init_timeout": 2, "silent": True}
    logger = WandbLogger(project="x", save_dir=tmp_path, offline=False, settings=settings)
    with pytest.raises(UserError, match=r"^W&B has no key: .*logger\.wandb\.offline=true$"):
        wandb_run.start_run(logger, {})


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_roc_keeps_its_area_with_few_points_and_ties(decimals):
    rng = np.random.default_rng(0)
    sets = {"in": rng.normal(size=4000).round(decimals), "out": rng.normal(1.5, 2, size=9000).round(decimals)}
    data = wandb_run._roc("s", sets, "in").table.data
    assert len(data) <= wandb_run.POINTS
    _, x, y = zip(*data, strict=True)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(auroc(sets["in"], sets["out"]), abs=2e-4)


def test_histograms_of_far_sets_share_their_bins():
    rng = np.random.default_rng(0)
    sets = {"in": rng.normal(size=1000), "near": rng.normal(2, size=500), "far": rng.normal(1e4, size=500)}
    data = wandb_run._histograms("s", sets, "in").table.data
    heights = {name: np.array([y for other, _, y in data if other == name]) for name in sets}
    assert all(len(y) == wandb_run.BINS and y.sum() == pytest.approx(1, abs=1e-3) for y in heights.values())
    assert heights["far"][-1] == 1
    assert 0 < heights["in"].max() < 0.9
