"""Evidence on disk, scores replayed from it, and the rows of results.csv."""

import csv
import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from oodgen.data.preprocess import TestSet as Examined
from oodgen.errors import Diverged, UserError
from oodgen.evaluation import evaluate
from oodgen.models.ensemble import Ensemble
from oodgen.models.hierarchy import BottomUpVAE
from oodgen.models.likelihoods import Bernoulli
from oodgen.noise import RandomNoise
from oodgen.probes.bounds import Bounds
from oodgen.probes.complexity import ImageStatistics
from oodgen.probes.members import Members
from oodgen.runs import results
from oodgen.scores import likelihood, ratio
from oodgen.scores.typicality import Typicality
from oodgen.training.device import Device

CPU = Device("cpu", "32")
calls: list[int] = []


@dataclass(frozen=True)
class Brightness:
    """A probe that says (mean, mean + noise) and counts how often it is asked."""

    gain: float = 1.0
    size: int = 3
    needs = nn.Module

    def batch(self, model):
        return self.size

    def __call__(self, model, x, noise):
        calls.append(len(x))
        value = self.gain * x.float().mean((1, 2, 3))
        return {"value": value, "levels": torch.stack([value, value + noise.normal("n", (1, len(x)), x.device)[0]])}


@pytest.fixture
def evaluated(tmp_path):
    calls.clear()
    return evaluate.EvaluatedModel(nn.Linear(1, 1), "last", tmp_path / "own", tmp_path / "shared", CPU, 0)


def images(name="photos", n=8, seed=0):
    x = np.random.default_rng(seed).integers(0, 256, (n, 1, 4, 4), np.uint8)
    return Examined(x, name, "official test", f"hash of {name} {seed}")


def test_evidence_is_asked_once_batch_by_batch_and_then_read(evaluated):
    test = images()
    first = evaluate.collect_evidence(evaluated, {"b": Brightness()}, test)
    assert calls == [3, 3, 2] and list(first) == ["b/value", "b/levels"]
    torch.testing.assert_close(first["b/value"], torch.tensor(test.x).float().mean((1, 2, 3)))
    assert first["b/levels"].shape == (2, 8)
    again = evaluate.collect_evidence(evaluated, {"b": Brightness()}, test)
    assert calls == [3, 3, 2]
    assert all(torch.equal(first[name], again[name]) for name in first)
    (file,) = evaluated.folder.iterdir()
    assert file.name.startswith("b-photos-") and file.suffix == ".safetensors"


def test_a_score_costs_what_its_probes_cost_when_their_evidence_was_computed(evaluated, monkeypatch):
    clock = iter(range(0, 1000, 2))  # two seconds between readings
    monkeypatch.setattr(evaluate.time, "perf_counter", lambda: next(clock))
    probes = {"a": Brightness(), "b": Brightness(2.0), "old": Brightness(3.0)}
    scores = {
        "one": lambda evidence: evidence["a/value"],
        "both": lambda evidence: evidence["a/value"] - evidence["b/value"],
        "unknown": lambda evidence: evidence["old/value"],
    }
    found = evaluate.collect_evidence(evaluated, probes, images())
    (old,) = evaluated.folder.glob("old-*")
    save_file({"value": found["old/value"], "levels": found["old/levels"]}, old)  # as before seconds were stored
    # two seconds of each probe and of the score itself, for 8 examples
    assert evaluate.score_seconds(evaluated, probes, scores, images()) == {"one": 500.0, "both": 750.0}
    assert len(calls) == 9, "nothing is computed for it"


@pytest.mark.parametrize("content", [b"", b"torn", b"\xff" * 100, None])
def test_damaged_evidence_is_asked_again_with_a_warning(evaluated, content, caplog):
    first = evaluate.collect_evidence(evaluated, {"b": Brightness()}, images())
    (file,) = evaluated.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-5] if content is None else content)
    again = evaluate.collect_evidence(evaluated, {"b": Brightness()}, images())
    assert len(calls) == 6 and "is damaged" in caplog.text and str(file) in caplog.text
    assert all(torch.equal(first[name], again[name]) for name in first)
    evaluate.collect_evidence(evaluated, {"b": Brightness()}, images())
    assert len(calls) == 6  # and it is mended


CHANGES = {
    "probe option": lambda w: (w, Brightness(2.0), images()),
    "seed": lambda w: (w._replace(seed=1), Brightness(), images()),
    "weights": lambda w: (w._replace(weights="best"), Brightness(), images()),
    "precision": lambda w: (w._replace(device=Device("cpu", "bf16")), Brightness(), images()),
    "file": lambda w: (w, Brightness(), images(seed=1)),
    "number": lambda w: (w, Brightness(), images(n=7)),
    "set": lambda w: (w, Brightness(), images("digits")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_evidence_gives_it_another_file(evaluated, change):
    first = evaluate.collect_evidence(evaluated, {"b": Brightness()}, images())
    other, probe, test = CHANGES[change](evaluated)
    found = evaluate.collect_evidence(other, {"b": probe}, test)
    assert len(list(evaluated.folder.iterdir())) == 2 and len(calls) > 3
    if change in ("probe option", "seed"):
        assert not torch.equal(found["b/levels"], first["b/levels"])
    evaluate.collect_evidence(evaluated, {"b": Brightness()}, images())
    assert len(list(evaluated.folder.iterdir())) == 2  # the first is still good


@dataclass(frozen=True)
class Slope:
    """The gradient of a linear model with respect to its example, while its parameters are frozen."""

    needs = nn.Module
    gradients = True

    def batch(self, model):
        return 3

    def __call__(self, model, x, noise):
        model.requires_grad_(False).bias.grad = None
        y = x.float().flatten(1).mean(1, keepdim=True).requires_grad_()
        model(y).square().sum().backward()
        return {"slope": y.grad[:, 0], "value": model(y)[:, 0]}


@pytest.mark.parametrize("wrap", [lambda probe: probe, Members])
def test_a_probe_that_says_so_has_gradients_and_leaves_the_parameters_as_they_were(evaluated, wrap):
    model = evaluated.model
    model.weight.requires_grad_(False)
    model.bias.grad = torch.ones(1)
    if wrap is Members:
        evaluated = evaluated._replace(model=Ensemble([model, model]))
    found = evaluate.run_probe(evaluated, wrap(Slope()), images())
    expected = 2 * model.weight[0, 0] * found["value"]
    torch.testing.assert_close(found["slope"], expected.detach())
    assert not found["value"].requires_grad and not found["value"].is_inference()
    assert [p.requires_grad for p in model.parameters()] == [False, True] and model.bias.grad == torch.ones(1)


def test_what_asks_no_model_is_kept_for_all_models(evaluated):
    modelless = Brightness()
    object.__setattr__(modelless, "needs", object)
    first = evaluate.collect_evidence(evaluated, {"b": modelless}, images())
    other = evaluated._replace(folder=evaluated.folder / "other", weights="best", seed=1, device=Device("cpu", "bf16"))
    found = evaluate.collect_evidence(other, {"b": modelless}, images())
    assert len(calls) == 3 and torch.equal(first["b/value"], found["b/value"])
    assert not evaluated.folder.exists() and len(list(evaluated.shared.iterdir())) == 1


def test_a_score_that_is_not_a_number_is_a_divergence_named():
    evaluate.check_finite({"l>0": np.array([1.0, np.inf, -np.inf])}, "mnist")
    with pytest.raises(Diverged, match="kl is not a number for 2 of the 3 examples of mnist"):
        evaluate.check_finite({"l>0": np.zeros(3), "kl": np.array([np.nan, 1.0, np.nan])}, "mnist")
    with pytest.raises(Diverged, match="l>0 is infinite for all 2 examples of mnist"):
        evaluate.check_finite({"l>0": np.array([np.inf, np.inf])}, "mnist")


def test_a_bound_that_ran_away_on_a_few_examples_is_said():
    usual = np.array([230.0, 240.0, 250.0])
    assert evaluate.diverging_means({"mnist": {"l>0": usual, "kl": np.array([1, 1, 1e9])}}) == []
    (line,) = evaluate.diverging_means({"mnist": {"l>0": usual}, "kmnist": {"l>0": np.array([230.0, 240.0, 1e18])}})
    assert "kmnist" in line and "median 240" in line and "3.33e+17" in line
    assert len(evaluate.diverging_means({"mnist": {"l>0": np.array([1.0, 2.0, np.inf])}})) == 1
    assert len(evaluate.diverging_means({"mnist": {"l>0": np.array([1.0, np.inf, np.inf])}})) == 1


def test_other_pixels_under_the_same_name_give_another_file(evaluated):
    # a transformation's options change what is made, and neither its name nor its origin
    made = [images("noise", seed=seed)._replace(origin="made from photos test", sha256="of photos") for seed in (0, 1)]
    values = [evaluate.collect_evidence(evaluated, {"b": Brightness()}, test)["b/value"] for test in made]
    assert not torch.equal(*values)


def test_evidence_of_every_probe_is_found_again_by_another_process(evaluated):
    test = images()
    for probe in (Bounds(), ImageStatistics()):
        assert " at 0x" not in repr(probe)
    evaluate.collect_evidence(evaluated, {"image": ImageStatistics()}, test)
    evaluate.collect_evidence(evaluated, {"image": ImageStatistics()}, test)
    assert len(list(evaluated.shared.iterdir())) == 1


@pytest.fixture(scope="module")
def hierarchy():
    torch.manual_seed(0)
    layers = [
        {"latent": 1, "channels": 2, "kernel": 3, "blocks": 1, "stride": 2},
        {"latent": 2, "dense": True, "channels": 2, "kernel": 3, "blocks": 1},
        {"latent": 2, "dense": True, "channels": 2, "kernel": 3, "blocks": 1},
    ]
    model = BottomUpVAE((1, 4, 4), layers, Bernoulli("dynamic"))
    model.initialise(torch.rand(64, 1, 4, 4), RandomNoise())
    return model.eval()


def scores():
    return {
        "l>0": partial(likelihood.bound, k=0),
        "llr>1": partial(ratio.llr, k=1),
        "llr>2": partial(ratio.llr, k=2),
        "llr_ada": ratio.llr_ada,
        "llr_rule": ratio.DeviatingLevel(),
        "control:value": partial(likelihood.statistic, name="value", probe="b"),
    }


def test_scores_are_replayed_from_evidence_without_asking_the_model(evaluated, hierarchy, monkeypatch):
    probes = {"bounds": Bounds(samples=3, samples_k=2), "b": Brightness()}
    live = evaluated._replace(model=hierarchy)
    validation, test = images("photos", 20, 5), images()

    def results(who):
        fitted = evaluate.fit_scores(scores(), evaluate.collect_evidence(who, probes, validation))
        return evaluate.compute_scores(fitted, evaluate.collect_evidence(who, probes, test))

    first = results(live)
    assert all(
        value.dtype == np.float64 and value.shape == (8,) and np.isfinite(value).all() for value in first.values()
    )
    monkeypatch.setattr(BottomUpVAE, "bounds", None)  # whoever asked would fail
    replayed = results(live)
    assert all(np.array_equal(first[name], replayed[name]) for name in first)
    assert np.array_equal(first["l>0"], -evaluate.collect_evidence(live, probes, test)["bounds/l"][0].double().numpy())


def test_evidence_does_not_depend_on_the_batches(evaluated, hierarchy, tmp_path):
    found = []
    for i, budget in enumerate((5, 40, 4000)):
        live = evaluated._replace(model=hierarchy, folder=tmp_path / str(i))
        found.append(
            evaluate.collect_evidence(live, {"bounds": Bounds(samples=4, samples_k=2, budget=budget)}, images(n=9))
        )
    for other in found[1:]:
        for name in other:
            torch.testing.assert_close(other[name], found[0][name], rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (partial(likelihood.bound, k=3), "level k=3 of 0..2"),
        (partial(likelihood.statistic, name="mean"), "image/mean"),
        (partial(ratio.llr, k=1, probe="mode"), "mode/l"),
    ],
)
def test_a_score_that_asks_for_what_is_not_there_names_itself_and_what_there_is(wrong, named):
    evidence = {"bounds/l": torch.zeros(3, 5), "b/value": torch.zeros(5)}
    with pytest.raises(UserError, match="score odd needs") as error:
        evaluate.compute_scores({"odd": wrong}, evidence)
    assert named in str(error.value) and "b/value, bounds/l" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("wrong", "named"), [(Typicality("mode"), "mode/l"), (ratio.DeviatingLevel("one"), "k=1 of")])
def test_so_does_one_that_is_fitted_on_what_is_not_there(wrong, named):
    with pytest.raises(UserError, match=f"score odd needs .*{named}"):
        evaluate.fit_scores({"odd": wrong}, {"bounds/l": torch.zeros(3, 5), "one/l": torch.zeros(1, 5)})


def test_only_scores_that_fit_are_fitted():
    reference = {"bounds/l": torch.randn(3, 40)}
    fitted = evaluate.fit_scores(scores(), reference)
    assert fitted["llr_rule"].reference is not None and fitted["llr_ada"] is ratio.llr_ada


# --- rows ---

WHO = ("quickstart", "abc", 3)


def values(n, shift=0.0, seed=0):
    rng = np.random.default_rng([seed, n])
    return {
        name: rng.normal(size=n) + move * shift
        for name, move in (("l>0", -1), ("llr>1", 1), ("llr>2", 3), ("control:mean", -2))
    }


@pytest.fixture(scope="module")
def table():
    sets = {
        "photos": values(60),
        "digits": values(45, 1.0),
        "glyphs": values(60, -0.5, 1),
        "noise": values(100, 0.2, 2),
    }
    return sets, evaluate.result_rows(WHO, sets, 16, {"llr>k": ["llr>1", "llr>2", "llr>7"], "none>k": ["llr>8"]})


def pick(found, **wanted):
    return [row for row in found if all(getattr(row, name) == value for name, value in wanted.items())]


def area(a, b):
    return ((b[:, None] > a).mean() + (b[:, None] >= a).mean()) / 2


def test_full_rows_are_metrics_of_whole_sets(table):
    sets, found = table
    for out in ("digits", "glyphs", "noise"):
        for score in sets["photos"]:
            (row,) = pick(found, out=out, score=score, metric="auroc", protocol="full")
            assert row[:4] == (*WHO, "photos") and (row.n_in, row.n_out) == (60, len(sets[out][score]))
            assert row.value == pytest.approx(area(sets["photos"][score], sets[out][score]))
            assert row.low <= row.value <= row.high
    # larger = more OOD, out is the positive class
    assert pick(found, out="digits", score="llr>2", metric="auroc", protocol="full")[0].value > 0.95
    assert pick(found, out="digits", score="l>0", metric="auroc", protocol="full")[0].value < 0.4


def test_balanced_rows_have_equal_numbers_seeded(table):
    sets, found = table
    balanced = pick(found, protocol="balanced")
    assert {(row.out, row.n_in, row.n_out) for row in balanced} == {
        ("digits", 45, 45),
        ("glyphs", 60, 60),
        ("noise", 60, 60),
    }
    assert len(balanced) == len(
        [row for row in found if row.protocol == "full" and row.metric not in ("nats", "bpd", "nats_dim")]
    )
    assert found == evaluate.result_rows(WHO, sets, 16, {"llr>k": ["llr>1", "llr>2", "llr>7"], "none>k": ["llr>8"]})
    # equal sets are their own balanced pair; of unequal ones all of the smaller is kept
    assert pick(balanced, out="glyphs") == [
        row._replace(protocol="balanced")
        for row in pick(found, out="glyphs", protocol="full")
        if row.metric not in ("nats", "bpd", "nats_dim")
    ]
    for out, n in (("digits", 45), ("noise", 60)):
        a, b = evaluate._balanced(sets["photos"]["llr>1"], sets[out]["llr>1"])
        assert len(a) == len(b) == n
        small, chosen = (sets[out]["llr>1"], b) if out == "digits" else (sets["photos"]["llr>1"], a)
        assert sorted(small) == sorted(chosen)
        large, some = (sets["photos"]["llr>1"], a) if out == "digits" else (sets[out]["llr>1"], b)
        assert len(set(some)) == n and set(some) <= set(large) and list(some) != list(large[:n])
        assert pick(balanced, out=out, score="llr>1", metric="auroc")[0].value == pytest.approx(area(a, b))


def test_oracle_rows_take_the_best_level_of_each_out_set_and_say_so(table):
    sets, found = table
    for out in ("digits", "glyphs", "noise"):
        full = {score: area(sets["photos"][score], sets[out][score]) for score in ("llr>1", "llr>2")}
        best = max(full, key=full.get)
        chosen = pick(found, out=out, score="llr>k")
        assert {row.protocol for row in chosen} == {"oracle"} and len(chosen) == 5
        assert chosen == [
            row._replace(score="llr>k", protocol="oracle") for row in pick(found, out=out, score=best, protocol="full")
        ]
    assert not pick(found, score="none>k")


def test_the_oracle_is_never_below_the_levels_it_chooses_among():
    for seed in range(40):
        sets = {"photos": values(30, 0, seed), "digits": values(90, 0, seed + 100)}
        found = evaluate.result_rows(WHO, sets, 16, {"llr>k": ["llr>1", "llr>2"]})
        levels = [row.value for row in pick(found, metric="auroc", protocol="full") if row.score.startswith("llr")]
        assert pick(found, score="llr>k", metric="auroc")[0].value == max(levels)


def test_controls_have_a_separation_without_direction(table):
    _, found = table
    for out, shift in (("digits", 1), ("glyphs", -1)):
        (row,) = pick(found, out=out, score="control:mean", metric="auroc", protocol="full")
        (separation,) = pick(found, out=out, score="control:mean", metric="separation", protocol="full")
        assert (row.value < 0.5) == (shift > 0)
        assert separation.value == max(row.value, 1 - row.value) > 0.5
        assert separation.low <= separation.value <= separation.high
        assert separation.high - separation.low == pytest.approx(row.high - row.low)
    assert {row.score for row in pick(found, metric="separation")} == {"control:mean"}


def test_bounds_are_also_reported_as_nats_and_bits_per_dimension(table):
    sets, found = table
    for out in sets:  # the inlier's own too
        (nats,) = pick(found, out=out, score="l>0", metric="nats")
        (bpd,) = pick(found, out=out, score="l>0", metric="bpd")
        assert nats.value == pytest.approx(-sets[out]["l>0"].mean())
        assert bpd.value == pytest.approx(sets[out]["l>0"].mean() / 16 / math.log(2))
        assert nats.n_in == nats.n_out == len(sets[out]["l>0"]) and math.isnan(nats.low)
    assert {row.score for row in pick(found, metric="bpd")} == {"l>0"}
    # the printed 0.420 bits/dim of 784 pixels are 228 nats (papers/hierarchical_llr, section 4)
    (row,) = pick(evaluate.result_rows(WHO, {"mnist": {"l>0": np.array([228.3])}}, 784, {}), metric="bpd")
    assert row.value == pytest.approx(0.42, abs=1e-3)


def test_files_hold_the_rows_and_the_scores(table, tmp_path):
    sets, found = table
    results.write(tmp_path / "results.csv", found)
    with (tmp_path / "results.csv").open() as file:
        read = list(csv.DictReader(file))
    columns = "experiment,fingerprint,seed,inlier,out,score,metric,value,low,high,protocol,n_in,n_out"
    assert ",".join(read[0]) == columns
    assert len(read) == len(found)
    for line, row in zip(read, found, strict=True):
        assert float(line["value"]) == pytest.approx(row.value, rel=1e-5) and line["score"] == row.score
        assert (line["low"] == "") == math.isnan(row.low)
    evaluate.write_scores(tmp_path / "scores", sets)
    stored = np.genfromtxt(tmp_path / "scores" / "digits.csv", delimiter=",", skip_header=1)
    assert (tmp_path / "scores" / "digits.csv").read_text().splitlines()[0] == "l>0,llr>1,llr>2,control:mean"
    np.testing.assert_allclose(stored, np.stack(list(sets["digits"].values()), 1), rtol=1e-6)


def test_reconstructions_start_with_the_image_and_lose_it_with_k(evaluated, hierarchy):
    sets = {"photos": images(n=30), "digits": images("digits", 4)}
    found = evaluate.reconstructions(evaluated._replace(model=hierarchy), sets, 8)
    assert found["photos"].shape == (4, 8, 1, 4, 4) and found["digits"].shape == (4, 4, 1, 4, 4)
    assert found["photos"].dtype == np.uint8 and np.array_equal(found["photos"][0], sets["photos"].x[:8])
    assert evaluate.reconstructions(evaluated, sets) == {}  # a model without levels


def test_evidence_is_of_the_sources_that_answered():
    everything = {"oodgen.probes.bounds", "oodgen.models.hierarchy"}
    of = evaluate.code_digest(frozenset(everything))
    assert of != evaluate.code_digest(frozenset({"oodgen.probes.bounds"}))
    # what a module imports counts without being named, and what is not ours does not
    assert of == evaluate.code_digest(
        frozenset({*everything, "oodgen.models.nets", "oodgen.noise", "torch.nn.modules.linear"})
    )
    assert of != evaluate.code_digest(frozenset({*everything, "oodgen.metrics"}))


def test_bits_and_nats_per_dimension_of_masses_and_densities():
    def of(width):
        found = evaluate.result_rows(WHO, {"mnist": {"l>0": np.array([784.0])}}, 784, {}, width=width)
        return {row.metric: row.value for row in found}

    assert of(1.0) == pytest.approx({"nats": -784, "nats_dim": 1.0, "bpd": 1 / np.log(2)})
    # the mass of a bin of 1/255 is that much of a density
    assert of(1 / 255) == pytest.approx({"nats": -784, "nats_dim": 1 - np.log(255), "bpd": 1 / np.log(2)})
    # and a density makes such a mass: both forms of one model agree
    assert of(None) == pytest.approx({"nats": -784, "nats_dim": 1.0, "bpd": (1 + np.log(255)) / np.log(2)})
