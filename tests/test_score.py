"""From a folder of images to verdicts: training, calibration and the command line, as a user would."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from oodgen import score
from oodgen.config import instantiate
from oodgen.detector import Detector
from oodgen.probes.complexity import statistics


def shapes(n, seed):
    """Bright squares and discs on dark grey, each with its own place, size and brightness."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:28, :28]
    for _ in range(n):
        (y, x), r = rng.uniform(8, 20, 2), rng.uniform(3, 8)
        dy, dx = abs(row - y), abs(column - x)
        inside = (np.maximum(dy, dx) if rng.random() < 0.5 else np.hypot(dy, dx)) < r
        yield (np.where(inside, rng.uniform(150, 255), 20) + rng.uniform(0, 5, (28, 28))).clip(0, 255).astype(np.uint8)


def save(folder, pictures):
    folder.mkdir(parents=True)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i:04d}.png")
    return folder


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """A user who trained on a folder of images, has others to score, and no longer has the first ones."""
    home = tmp_path_factory.mktemp("home")
    save(home / "mine", shapes(1000, 0))
    command = [sys.executable, "-m", "oodgen.run", "+experiment=own_images", "data.inlier.root=mine", "data.root=data"]
    command += ["runs=runs", "data.batch_size=32", "data.limit=20", "device.precision=32", "trainer.max_epochs=3"]
    command += [
        "device.accelerator=cpu",
        "device.threads=1",
        "data.calibration=0.2",
        "~data.out.hflip",
        "~data.out.vflip",
    ]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder,) = (home / "runs" / "eval" / "own_images").iterdir()
    data = _data(folder, home)
    data.setup()
    parts = {
        "train": torch.cat([batch.x for batch in data.train_dataloader()]).numpy(),
        "test": data.test_sets()[data.inlier.name].x,
    }
    parts |= {part: np.array(held.x) for part, held in data.held_out.items()}
    shutil.rmtree(home / "mine")
    shutil.rmtree(home / "data")
    return SimpleNamespace(home=home, folder=folder, parts=parts, new=save(home / "new", shapes(400, 1)))


def _data(folder, home):
    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))["data"]
    config["root"], config["inlier"]["root"] = str(home / "data"), str(home / "mine")
    return instantiate.build(config, "data")


def run(capfd, *arguments):
    code = score.main([str(argument) for argument in arguments])
    printed = capfd.readouterr()
    return code, printed.out, printed.err


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_calibration_rests_on_the_calibration_part_alone(user):
    parts = {name: {row.tobytes() for row in x} for name, x in user.parts.items()}
    assert len(parts["calibration"]) > 100
    for other in ("train", "validation", "test"):
        assert not parts["calibration"] & parts[other]
    stored = load_file(user.folder / "calibration.safetensors")
    for part in ("calibration", "validation"):
        x = torch.from_numpy(user.parts[part])
        assert torch.equal(stored[f"{part}/image/total_variation"], statistics(x)["total_variation"])
        assert stored[f"{part}/bounds/l"].shape == (3, len(x))


def test_held_out_inliers_pass_and_noise_does_not(user, capfd):
    noise = save(user.home / "noise", np.random.default_rng(2).integers(0, 256, (200, 28, 28), np.uint8))
    n = len(user.parts["calibration"])
    for name, least in (
        ("llr_ada", 0.0),
        ("l>0", 0.9),
        ("evidence", 0.9),
    ):  # after so short a training the ratio promises nothing
        option = [] if name == "evidence" else ["--score", name]
        code, out, err = run(capfd, user.folder.parent, user.new, noise, "--out", user.home / "out.csv", *option)
        assert (code, err) == (0, "")
        found = rows(user.home / "out.csv")
        assert [row["file"] for row in found] == [str(p) for at in (user.new, noise) for p in sorted(at.iterdir())]
        flagged = [row["verdict"] == "OUT" for row in found]
        assert flagged == [float(row["p_value"]) <= 0.05 for row in found]
        assert sum(flagged[:400]) < 0.05 * 400 + 4 * np.sqrt(400 * 0.05 * 0.95 * (1 + 400 / n))
        assert np.mean(flagged[400:]) > least
        assert out.startswith(f"600 images scored by {name}: {sum(flagged)} OUT")
        assert f"about 30 would be if all were like {Detector.load(user.folder).inlier} " in out
        assert f"calibrated on {n} images" in out


def test_files_are_scored_as_arrays_are_and_chunks_do_not_show(user, capfd, monkeypatch):
    detector = Detector.load(user.folder, "l>0")
    monkeypatch.setattr(score, "CHUNK", 28 * 28 * 7)
    chunked = list(score.score_files(detector, sorted(user.new.iterdir())[:30], 0.1))
    x = np.stack([np.asarray(Image.open(line.file))[None] for line in chunked])
    expected = detector.score(x)
    np.testing.assert_allclose([line.score for line in chunked], expected, rtol=1e-4)
    assert [line.verdict for line in chunked] == ["OUT" if out else "in" for out in detector.predict(x, 0.1)]
    # one image alone, on the terminal
    code, out, _ = run(capfd, user.folder, chunked[4].file, "--score", "l>0", "--false-alarm", "0.1")
    verdict, p, value, file = out.splitlines()[1].split()
    assert (code, verdict, file) == (0, chunked[4].verdict, str(chunked[4].file))
    assert float(value) == pytest.approx(chunked[4].score, abs=1e-2)
    assert float(p) == pytest.approx(chunked[4].p_value, abs=2e-2)


def test_pictures_of_other_sizes_and_colours_are_converted_as_in_training(user):
    detector = Detector.load(user.folder)
    picture = next(shapes(1, 3))
    path = user.home / "large.tif"
    Image.fromarray(np.kron(picture, np.ones((4, 4), np.uint8))).convert("RGBA").save(path)
    assert abs(detector.decode(path)[0].astype(int) - picture).mean() < 6


def test_files_that_are_no_images_are_named_and_the_others_scored(user, capfd):
    folder = user.home / "mixed"
    folder.mkdir()
    good, whole = sorted(user.new.iterdir())[:2], (user.new / "0000.png").read_bytes()
    for path in good:
        shutil.copy(path, folder)
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.gif").touch()
    (folder / "gone.png").symlink_to(folder / "nowhere")
    (folder / "read me.txt").write_text("not looked at")
    code, out, err = run(capfd, user.folder, folder, "--out", user.home / "mixed.csv")
    found = {Path(row["file"]).name: row for row in rows(user.home / "mixed.csv")}
    bad = {"cut.png", "text.jpg", "empty.gif", "gone.png"}
    assert code == 2
    assert set(found) == bad | {path.name for path in good}
    assert {name for name, row in found.items() if row["verdict"] == "unreadable"} == bad
    assert all(found[name]["score"] == found[name]["p_value"] == "" for name in bad)
    assert sorted(Path(line.split(" ")[0]).name for line in err.splitlines()) == sorted(bad)
    assert "2 images scored" in out and "4 could not be read" in out
    code, out, err = run(capfd, user.folder, folder / "read me.txt")
    assert code == 2 and "0 images scored" in out and "read me.txt cannot be read as an image" in err


def test_hostile_file_names_forge_nothing(user, capfd, monkeypatch):
    folder, whole = user.home / "hostile", (user.new / "0000.png").read_bytes()
    names = [
        "x.png\nin          0.9000        0.000  y.png",
        "\x1b[2J.png",
        "=1+1.png",
        "'a.png",
        "caf\udce9.png",
        "-z.png",
    ]
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(whole)
    (folder / "\x1b[31m\nbad.png").write_text("no image")
    monkeypatch.chdir(folder)
    code, out, err = run(capfd, user.folder, ".", "--out", user.home / "hostile.csv")
    with (user.home / "hostile.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        found = {row["file"].removeprefix("'") for row in csv.DictReader(file)}
    assert found == {*names, "\x1b[31m\nbad.png"}
    assert "\n=" not in (user.home / "hostile.csv").read_text(errors="surrogateescape")
    assert code == 2 and err.count("\n") == 1 and err.startswith(r"\x1b[31m\nbad.png cannot be read")
    code, out, _ = run(capfd, user.folder, *sorted(folder.iterdir()))
    assert code == 2 and len(out.splitlines()) == 2 + 7 and "\x1b" not in out  # a head and a summary beside them
    assert r"x.png\nin " in out and r"caf\xe9.png" in out
    code, _, err = run(capfd, "run\noodgen: fine", user.new)
    assert code == 2 and err.startswith(r"oodgen: there is no run run\noodgen: fine; ") and err.count("\n") == 1


def test_mistakes_cost_one_line_and_leave_no_file(user, capfd):
    empty, csv_file = user.home / "empty", user.home / "never.csv"
    empty.mkdir()
    unfinished = user.home / "unfinished"
    shutil.copytree(user.folder, unfinished)
    (unfinished / "state.json").write_text(json.dumps({"state": "running", "why": None}))
    for arguments, words in (
        ((user.home / "nothing", user.new), "there is no run"),
        ((unfinished, user.new), "is not finished (running"),
        ((user.folder, empty), "there are no images under"),
        ((user.folder, user.home / "nowhere"), "nowhere does not exist"),
        ((user.folder, user.new, "--score", "best"), "no score best; it has: l_0 (l>0)"),
        ((user.folder, user.new, "--false-alarm", "0.001"), "needs 999 calibration images"),
        ((user.folder, user.new, "--false-alarm", "5"), "is not between 0 and 1"),
    ):
        code, out, err = run(capfd, *arguments, "--out", csv_file)
        assert code == 2 and out == "" and words in err
        assert err.startswith("oodgen: ") and err.count("\n") == 1
        assert not csv_file.exists()


def test_scoring_imports_no_training(user):
    program = """
import sys
from oodgen import score
assert score.main(sys.argv[1:]) == 0
heavy = {"pytorch_lightning", "lightning_fabric", "torchmetrics", "torchvision", "wandb"}
heavy |= {"matplotlib", "sklearn"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    command = [sys.executable, "-c", program, user.folder, user.new / "0000.png"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "1 image scored" in done.stdout, done.stderr
