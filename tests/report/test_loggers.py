"""Every logger receives the config, the curves and the final scores, whether the training was made or found."""

import csv
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import Logger

from oodgen.errors import UserError
from oodgen.report import loggers
from oodgen.runs import results
from oodgen.training.curves import CurvesLogger

FAST = ["+experiment=quickstart", "smoke=true", "model=hvae_tiny", "device.accelerator=cpu", "device.threads=1"]
FAST += [f"~data.out.{name}" for name in ("glyphs", "uniform_noise", "gaussian_noise", "hflip", "vflip")]


def from_csv(folder: Path) -> dict[str, list[tuple[int, float]]]:
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = set(rows[0]) - {"step"}
    return {name: [(int(row["step"]), float(row[name])) for row in rows if row[name]] for name in names}


def from_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        name: [(event.step, pytest.approx(event.value, rel=1e-6)) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def from_mlflow(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.parents[3] / 'mlflow.db'}")
    (one,) = client.search_experiments(filter_string="name = 'quickstart'")
    run = client.search_runs([one.experiment_id])[0]  # the latest
    assert run.info.status == "FINISHED" and run.data.params["method/optimizer/lr"] == "0.001"
    return {
        name: [(value.step, value.value) for value in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


READ = {"csv": from_csv, "tensorboard": from_tensorboard, "mlflow": from_mlflow}


def test_curves_and_final_scores_arrive_also_of_a_training_that_was_found(command, tmp_path, monkeypatch):
    chosen = [name for name in READ if name == "csv" or find_spec(name)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as in a process that finds RANK=1 in its environment
    (tmp_path / "runs").mkdir()
    for seed in (0, 1):
        ended = command(*FAST, f"eval_seed={seed}", f"logger=[{','.join(chosen)}]")
        assert ended.code == 0, ended.err
        assert ("found trained" in ended.err) == (seed == 1)
        folder = Path(ended.out.split()[-1]).parent
        (curves,) = (tmp_path / "runs").glob("smoke/train/*/metrics.csv")
        with curves.open(newline="") as file:
            (row,) = csv.DictReader(file)
        auroc = {
            f"auroc/{row.out}/{row.score}": row.value
            for row in results.read(folder / "results.csv")
            if (row.metric, row.protocol) == ("auroc", "full")
        }
        expected = {name: [(int(row["step"]), float(value))] for name, value in row.items() if name != "step"}
        expected |= {loggers.legal_names(name): [(2, value)] for name, value in auroc.items()}
        assert {"train/bound", "auroc/digits/llr_ada", "auroc/digits/l_0"} <= set(expected)
        for name in chosen:
            assert READ[name](folder.resolve()) == expected, name
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboard"), ("mlflow", "sqlalchemy")])
def test_a_package_that_is_missing_is_named_with_its_extra(command, monkeypatch, tmp_path, name, package):
    find = loggers.find_spec
    monkeypatch.setattr(loggers, "find_spec", lambda asked: None if asked == package else find(asked) or sys)
    ended = command(*FAST, f"logger={name}")
    assert ended.code == 2
    assert ended.error == f"oodgen: logger.{name} needs {package}; pip install 'oodgen[{name}]'"
    assert not list((tmp_path / "runs").rglob("last.ckpt"))


class Heard(Logger):
    """What a logger was told."""

    name = version = "heard"

    def __init__(self) -> None:
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))

    def log_hyperparams(self, *_):
        pass


def test_a_resumed_training_tells_its_whole_curve(tmp_path):
    for start, stop in ((0, 4), (2, 6)):  # killed after step 3, resumed from the checkpoint of step 2
        heard = Heard()
        curves = CurvesLogger(tmp_path / "metrics.csv", [heard])
        for step in range(start, stop):
            curves.log_metrics({"train/bound": 10.0 * start + step}, step)
    assert heard.rows == [(step, {"train/bound": value}) for step, value in enumerate([0, 1, 22, 23, 24, 25])]


def test_a_logger_that_cannot_begin_is_one_line_and_the_others_end():
    class Broken(Heard):
        def log_hyperparams(self, *_):
            raise ConnectionError("no answer\nat all")

    ended = []
    first = SimpleNamespace(log_hyperparams=lambda _: None, finalize=ended.append)
    config = {"model": {}, "method": {}, "trainer": {}, "callbacks": {}, "seed": 0, "data": {}}
    with (
        pytest.raises(UserError, match=r"^Broken cannot begin \(no answer\); mend it, or leave it out"),
        loggers.session([first, Broken()], config | {"device": {"precision": "32"}}),
    ):
        pytest.fail("the session must not begin")
    assert ended == ["failed"]
