"""What the first build (commit 115c83d) left behind is found, resumed, scored and reported as it was.

first_build.json holds names of trainings, and digests of the means of the kept runs, that its code gave;
first_build.tar.xz a tiny run of it, finished, and the same one killed after 41 of 44 steps.
"""

import csv
import hashlib
import json
import tarfile
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from oodgen import score
from oodgen.report import grouping
from oodgen.runs import results

HERE = Path(__file__).resolve().parent
OPTIONS = (
    "data=base +dataset@data.inlier=mnist +dataset@data.out.kmnist=kmnist +dataset@data.out.hflip=hflip data.root=data "
    "data.batch_size=16 model=hvae_tiny model.layers.0.channels=2 model.layers.1.channels=2 model.layers.2.channels=2 "
    "model.layers.0.kernel=3 model.layers.0.latent=1 model.layers.1.latent=2 model.layers.2.latent=2 name=first "
    "method.warmup=1 method.free_bits.hold=1 trainer.max_epochs=2 device.accelerator=cpu device.precision=32"
)


@pytest.fixture
def left(tmp_path, monkeypatch, tiny_factory):
    """The runs and their data in the current folder."""
    monkeypatch.chdir(tmp_path)
    tiny_factory(tmp_path / "data")
    with tarfile.open(HERE / "first_build.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")


def _train(runs: str) -> Path:
    (folder,) = Path(runs, "train").iterdir()
    return folder


def _weights(runs: str) -> dict[str, torch.Tensor]:
    return torch.load(_train(runs) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_a_finished_training_is_found_and_evaluated_as_it_was(left, command):
    (old,) = Path("finished/eval/first").iterdir()
    before, weights = results.read(old / "results.csv"), (_train("finished") / "checkpoints" / "last.ckpt").read_bytes()
    ended = command(*OPTIONS.split(), "runs=finished", "evidence@scores=none")
    assert ended.code == 0 and "found trained" in ended.err, ended.err
    assert (_train("finished") / "checkpoints" / "last.ckpt").read_bytes() == weights
    new = max(Path("finished/eval/first").iterdir(), key=lambda folder: (folder / "state.json").stat().st_mtime_ns)
    after = results.read(new / "results.csv")
    assert [row[:7] for row in after] == [row[:7] for row in before]
    for row, then in zip(after, before, strict=True):
        assert row.value == pytest.approx(then.value, rel=1e-4, abs=1e-4), row


def test_an_interrupted_training_ends_as_it_would_have(left, command):
    ended = command(*OPTIONS.split(), "runs=interrupted")
    assert ended.code == 0 and json.loads((_train("interrupted") / "state.json").read_text())["state"] == "done"
    straight = _weights("finished")
    for name, value in _weights("interrupted").items():
        # a tenth of the three steps that were left: other batches or noise, or moments lost, would show
        torch.testing.assert_close(value, straight[name], rtol=0, atol=3e-5)
    rows, then = ((_train(r) / "metrics.csv").read_text().splitlines() for r in ("interrupted", "finished"))
    assert rows[:3] == then[:3] and len(rows) == len(then)


def test_a_finished_run_scores_images_as_it_did(left):
    import numpy as np
    from PIL import Image

    for name in ("mnist", "kmnist"):
        for i, x in enumerate(np.load(f"data/prepared/{name}/test.npy")[:3]):
            Image.fromarray(x[0]).save(f"{name}{i}.png")
    (run,) = Path("finished/eval/first").iterdir()
    images = sorted(map(str, Path().glob("*.png")))
    assert score.main([str(run), *images, "--out", "scores.csv"]) == 0
    now, then = (list(csv.DictReader(path.open())) for path in (Path("scores.csv"), Path("finished/scores.csv")))
    for mine, other in zip(now, then, strict=True):
        assert (mine["file"], mine["verdict"], mine["p_value"]) == (other["file"], other["verdict"], other["p_value"])
        assert float(mine["score"]) == pytest.approx(float(other["score"]), rel=1e-4)


def test_the_kept_runs_have_the_means_that_they_had():
    lines = defaultdict(list)
    runs, _ = grouping.find_runs(HERE.parent / "experiments")
    for group in grouping.experiments(runs):
        for setting, cells in group.cells().items():
            lines[group.members[0][1].folder.parent.name] += [
                f"{setting},{c.inlier},{c.out},{c.score},{c.metric},{c.protocol},{c.value:.9g}" for c in cells
            ]
    found = {name: hashlib.sha256("\n".join(sorted(of)).encode()).hexdigest()[:12] for name, of in lines.items()}
    kept = json.loads((HERE / "first_build.json").read_text())["kept"]
    assert {name: found.get(name) for name in kept} == kept
