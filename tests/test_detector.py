"""Scores, p-values and verdicts of a detector, and what it refuses to load."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from oodgen.config.instantiate import build
from oodgen.data.preprocess import TestSet as Examples
from oodgen.detector import Detector
from oodgen.errors import UserError
from oodgen.evaluation.calibration import Conversion, calibrate
from oodgen.evaluation.evaluate import EvaluatedModel, collect_evidence
from oodgen.noise import RandomNoise
from oodgen.training.device import Device

CPU = Device("cpu", "32", False)


class Toy:
    """Evidence of each image: its mean, and a number of its noise."""

    needs = object

    def batch(self, model):
        return 7

    def __call__(self, model, x, noise):
        return {"mean": x.float().mean((1, 2, 3)), "noise": noise.normal("toy", (1, len(x)), x.device)[0]}


def detector(item="mean", reference=(), seed=0):
    model = nn.Identity()
    model.shape = (1, 4, 4)
    values = torch.as_tensor(reference, dtype=torch.float64).sort().values
    conversion = Conversion((1, 4, 4), False, None)
    return Detector(model, {"toy": Toy()}, lambda evidence: evidence[f"toy/{item}"], values, conversion, CPU, seed)


def images(n, seed=0, shape=(1, 4, 4)):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8))


@pytest.mark.parametrize("n", [1, 2, 19, 500])
def test_p_values_are_those_of_the_definition_with_ties(n):
    rng = np.random.default_rng(n)
    reference, scores = rng.integers(0, 8, n).astype(float), [*range(-1, 10), 3.5, np.inf, -np.inf]
    found = detector(reference=reference).p_value_of_score(torch.tensor(scores, dtype=torch.float64))
    brute = [(1 + sum(s_i >= s for s_i in reference)) / (n + 1) for s in scores]
    assert found.tolist() == brute


def test_a_score_that_is_no_number_is_the_most_suspicious():
    assert detector(reference=[1, 2, 3]).p_value_of_score(torch.tensor([torch.nan])).item() == 1 / 4


@pytest.mark.parametrize("levels", [None, 5])
def test_p_values_of_held_out_inliers_are_uniform_or_larger(levels):
    """Over calibration sets and tests alike, P(p <= a) is floor(a (n + 1)) / (n + 1), and less with ties."""
    rng = np.random.default_rng(0)
    n, repeats = 79, 6_000
    draw = rng.standard_normal((repeats, n + 1))
    draw = draw if levels is None else np.round(draw * levels / 10)
    p = np.array([detector(reference=row[:-1]).p_value_of_score(torch.tensor(row[-1:])).item() for row in draw])
    for rate in (0.05, 0.2, 0.5):
        exact = np.floor(rate * (n + 1)) / (n + 1)
        error = 4 * np.sqrt(rate * (1 - rate) / repeats)
        assert (p <= rate).mean() < exact + error
        assert levels is not None or (p <= rate).mean() > exact - error


def test_the_false_alarm_rate_holds_from_images_to_verdicts():
    calibrated = detector(reference=detector().score(images(2000, 1)))
    n, alarms = 4000, calibrated.predict(images(4000, 2), 0.05).sum().item()
    # the variance of the calibration set adds to the binomial one
    assert abs(alarms - 0.05 * n) < 4 * np.sqrt(n * 0.05 * 0.95 * (1 + n / 2000))
    assert calibrated.predict(torch.full((3, 1, 4, 4), 255, dtype=torch.uint8)).all()
    assert not calibrated.predict(torch.full((3, 1, 4, 4), 127, dtype=torch.uint8)).any()


def test_the_noise_of_an_image_depends_on_its_content_and_the_seed_alone():
    x = images(30)
    x[20] = x[3]
    score = detector("noise").score(x)
    assert score[20] == score[3] and len(score.unique()) == 29
    assert torch.equal(detector("noise").score(x.flip(0)).flip(0), score)
    assert torch.equal(torch.cat([detector("noise").score(image) for image in x]), score)
    assert not torch.isclose(detector("noise", seed=1).score(x), score).any()


def test_arrays_and_tensors_alike_and_none_at_all():
    x = images(9).numpy()
    x.flags.writeable = False
    assert torch.equal(detector().score(x), torch.from_numpy(x.reshape(9, -1).mean(1)))
    assert torch.equal(detector().score(x[::-1]).flip(0), detector().score(x))
    assert detector(reference=[1.0]).p_value(images(0)).shape == (0,)


@pytest.mark.parametrize(
    "x", [torch.zeros(2, 1, 4, 4), images(2, shape=(1, 5, 4)), images(2, shape=(3, 4, 4)), images(4)[0, 0]]
)
def test_examples_that_do_not_fit_are_refused(x):
    with pytest.raises(UserError, match=r"needs torch.uint8 .* \(N, 1, 4, 4\), got .*Detector.decode"):
        detector().score(x)


def test_a_rate_below_the_smallest_p_value_is_refused():
    calibrated = detector(reference=np.arange(19))
    assert calibrated.predict(torch.full((1, 1, 4, 4), 255, dtype=torch.uint8), 0.05).all()
    for rate in (0.049, 0, 1, -0.1, float("nan")):
        with pytest.raises(UserError, match="false_alarm="):
            calibrated.predict(images(1), rate)
    with pytest.raises(UserError, match=r"needs 20 calibration images and this run has 19; use at least 0\.05"):
        calibrated.check(0.049)


CONFIG = {
    "method": {
        "_target_": "oodgen.methods.likelihood.MaximumLikelihood",
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-3},
        "model": {
            "_target_": "oodgen.models.hierarchy.BottomUpVAE",
            "shape": [1, 8, 8],
            "layers": [
                {"latent": 3, "channels": 4, "blocks": 1, "stride": 2},
                {"latent": 2, "dense": True, "channels": 4},
            ],
            "likelihood": {"_target_": "oodgen.models.likelihoods.Bernoulli", "pixels": "dynamic"},
        },
    },
    "probes": {
        "bounds": {"_target_": "oodgen.probes.bounds.Bounds", "samples": 2},
        "image": {"_target_": "oodgen.probes.complexity.ImageStatistics"},
    },
    "scores": {
        "l>0": {"_target_": "oodgen.scores.likelihood.bound", "_partial_": True, "k": 0},
        "llr_ada": {"_target_": "oodgen.scores.ratio.llr_ada", "_partial_": True},
        "rule": {"_target_": "oodgen.scores.ratio.DeviatingLevel"},
        "complexity": {"_target_": "oodgen.scores.ratio.input_complexity", "_partial_": True},
    },
    "device": {"accelerator": "gpu", "precision": "32", "channels_last": "auto", "compile": False, "threads": 3},
    "checkpoint": "last",
    "eval_seed": 4,
}


@pytest.fixture
def run(tmp_path):
    """The directories of an evaluated run, without a training; calibration is given the held parts and nothing else."""
    folder, train = tmp_path / "runs" / "eval" / "mine" / "abc", tmp_path / "runs" / "train" / "f00"
    folder.mkdir(parents=True)
    (train / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    method = build(CONFIG["method"], "method")
    y = method.model.observe(images(8, shape=(1, 8, 8)), RandomNoise())
    method.model.initialise(y, RandomNoise())
    state = {f"model.{name}": value for name, value in method.model.state_dict().items()}
    torch.save({"state_dict": state}, train / "checkpoints" / "last.ckpt")
    evaluated = EvaluatedModel(method.model.eval(), "last", train / "evidence", train.parent / "evidence", CPU, 4)
    held = {
        part: Examples(images(n, n, (1, 8, 8)).numpy(), "toys", f"{part} part of train", "")
        for part, n in (("validation", 30), ("calibration", 50))
    }
    inlier = SimpleNamespace(name="toys", shape=(3, 16, 16))
    data = SimpleNamespace(held_out=held, inlier=inlier, grey=True, size=(8, 8), scaling=None)
    probes = {name: build(probe, f"probes.{name}") for name, probe in CONFIG["probes"].items()}
    calibrate(evaluated, probes, data, folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    (folder / "record.json").write_text(json.dumps({"fingerprint": "f00", "train_dir": "elsewhere"}))
    (folder / "state.json").write_text(json.dumps({"state": "done", "why": None}))
    return SimpleNamespace(folder=folder, train=train, held=held, evaluated=evaluated, probes=probes, path=tmp_path)


@pytest.mark.parametrize(
    ("score", "name", "probes"),
    [(None, "llr_ada", {"bounds"}), ("rule", "rule", {"bounds"}), ("complexity", "complexity", {"bounds", "image"})],
)
def test_load_gives_back_the_score_fitted_and_calibrated_on_the_held_parts(run, score, name, probes):
    loaded = Detector.load(run.folder, score)
    validation, calibration = (
        collect_evidence(run.evaluated, run.probes, run.held[part]) for part in ("validation", "calibration")
    )
    rule = build(CONFIG["scores"][name], f"scores.{name}")
    rule = rule.fit(validation) if hasattr(rule, "fit") else rule
    assert (loaded.name, set(loaded.probes), loaded.inlier) == (name, probes, "toys")
    assert torch.equal(loaded.reference, rule(calibration).double().sort().values)
    # the loaded model and probes answer as those of the run did, with the run's noise
    x = torch.from_numpy(run.held["calibration"].x)
    torch.testing.assert_close(
        loaded.rule(loaded.evidence(x, torch.arange(50))), rule(calibration), rtol=1e-4, atol=1e-4
    )


def test_an_image_alone_has_the_score_that_it_has_in_a_batch(run):
    loaded = Detector.load(run.folder.parent)  # the only run of its name
    x = images(40, 9, (1, 8, 8))
    together = loaded.score(x)
    torch.testing.assert_close(torch.cat([loaded.score(image) for image in x]), together, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loaded.score(x.flip(0)).flip(0), together, rtol=1e-4, atol=1e-4)
    assert together.std() > 0.1


def test_runs_may_be_moved(run):
    moved = run.path / "else" / "where"
    moved.parent.mkdir()
    (run.path / "runs").rename(moved)
    assert len(Detector.load(moved / "eval" / "mine" / "abc").reference) == 50
    (moved / "train").rename(moved / "gone")
    with pytest.raises(UserError, match="keep runs/train beside runs/eval"):
        Detector.load(moved / "eval" / "mine" / "abc")


def test_weights_trained_again_do_not_meet_an_old_calibration(run):
    path = run.train / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    next(iter(content["state_dict"].values())).mul_(1.001)
    torch.save(content, path)
    with pytest.raises(UserError, match="trained again after its calibration; delete"):
        Detector.load(run.folder)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("calibration.safetensors", None, "evaluated without a calibration; delete"),
        ("calibration.safetensors", "x", "is damaged"),
        ("state.json", '{"state": "failed", "why": "no disk"}', r"not finished \(failed: no disk\)"),
        ("state.json", None, "one finished evaluation.*has none"),
        ("record.json", None, "is a training; name"),
        ("record.json", "{", "is damaged"),
        ("config.yaml", "a: [", "cannot read"),
        ("config.yaml", "a: 1", "is not the config of a run"),
        (
            "config.yaml",
            yaml.safe_dump({**CONFIG, "probes": {"bounds": {"_target_": "os.getcwd"}}}),
            "is not allowed here",
        ),
        ("config.yaml", yaml.safe_dump({**CONFIG, "checkpoint": "${oc.env:HOME}"}), "interpolation"),
    ],
)
def test_what_cannot_be_loaded_is_named(run, file, content, words):
    path = run.folder / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=words) as error:
        Detector.load(run.folder)
    assert "\n" not in str(error.value) and str(run.folder) in str(error.value) + str(path)


def test_a_run_or_score_that_is_not_there_is_named(run):
    with pytest.raises(UserError, match="there is no run"):
        Detector.load(run.path / "nothing")
    with pytest.raises(UserError, match=r"no score best; it has: l_0 \(l>0\), llr_ada, rule, complexity"):
        Detector.load(run.folder, "best")
