"""ODIN and Mahalanobis against brute force; what a classifier says; the extra that is missing is named."""

import sys

import pytest
import torch

from oodgen.data.preprocess import TestSet as Examined
from oodgen.errors import UserError
from oodgen.evaluation import evaluate
from oodgen.models.classifier import DenseClassifier
from oodgen.models.ensemble import Ensemble
from oodgen.noise import ExampleNoise
from oodgen.probes.baselines import ODIN, Mahalanobis
from oodgen.probes.classifier import Logits
from oodgen.probes.members import Members
from oodgen.probes.probe import probe_grad_mode
from oodgen.training.device import Device

CENTRES = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0]])


def classifier():
    """One whose features tell three Gaussians apart, as if it were trained."""
    torch.manual_seed(0)
    model = DenseClassifier((2,), 3, [6], dropout=0.0)
    with torch.no_grad():
        model.trunk[0].weight.copy_(torch.cat([CENTRES, -CENTRES]) / 4)
        model.trunk[0].bias.fill_(0.3)
        model.head.weight.copy_(torch.cat([torch.eye(3), -torch.eye(3)], 1) * 2)
    return model.eval()


def inliers(count=60):
    draw = torch.Generator().manual_seed(1)
    y = torch.arange(count) % 3
    return CENTRES[y] + torch.randn(count, 2, generator=draw) / 2, y


def outs(count=60):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(2)) / 2


def noise(x):
    return ExampleNoise(0, torch.arange(len(x)))


@pytest.mark.parametrize(("temperature", "eps"), [(1000.0, 0.0014), (1.0, 0.0), (5.0, 0.2)])
def test_odin_is_its_two_steps_written_out(temperature, eps):
    model, (x, _) = classifier(), inliers(7)
    expected = []
    for example in x:  # one by one: of a batch's mean the gradient has the same sign
        y = example[None].clone().requires_grad_()
        log_p = (model.logits(y) / temperature).log_softmax(1)
        (gradient,) = torch.autograd.grad(-log_p.max(), y)
        moved = (y - eps * gradient.sign()).detach()
        expected.append(-(model.logits(moved) / temperature).softmax(1).max())
    probe = ODIN(temperature, eps)
    with probe_grad_mode(probe, model):
        found = probe(model, x, noise(x))["score"]
    torch.testing.assert_close(found, torch.stack(expected).detach(), rtol=1e-6, atol=1e-7)
    assert all(parameter.grad is None for parameter in model.parameters())


def fitted(model):
    x, y = inliers()
    with torch.inference_mode():
        return Mahalanobis().fit(model, [(x[:40], y[:40], noise(x[:40])), (x[40:], y[40:], noise(x[40:]))])


def uncut(bias=30.0):
    """One whose features no ReLU cuts, so that their scatter has full rank in float32."""
    model = DenseClassifier((2,), 3, [2], dropout=0.0).eval()
    with torch.no_grad():
        model.trunk[0].weight.copy_(torch.tensor([[1.0, 0.5], [-0.5, 2.0]]))
        model.trunk[0].bias.fill_(bias)
    return model


def test_mahalanobis_is_the_distance_written_out():
    (x, y), out = inliers(), outs(9)
    model = uncut()
    f, g = model.features(x).detach().double(), model.features(out).detach().double()
    means = torch.stack([f[y == k].mean(0) for k in range(3)])
    scatter = 1e-6 * torch.eye(2, dtype=torch.float64)
    for features, k in zip(f, y, strict=True):
        scatter += torch.outer(features - means[k], features - means[k])
    inverse = scatter.inverse()
    expected = [min(float((e - mean) @ inverse @ (e - mean)) / 2 for mean in means) for e in g]
    found = fitted(model)(model, out, noise(out))["distance"]
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-6)


def test_names_of_classes_do_not_matter_and_labels_must_be_there():
    model, (x, y) = classifier(), inliers()
    named = Mahalanobis().fit(model, [(x, 7 * y + 1, noise(x))])
    torch.testing.assert_close(named.fitted["mean"], fitted(model).fitted["mean"])
    with pytest.raises(UserError, match="wants the labels of the inlier set, which has none"):
        Mahalanobis().fit(model, [(x, None, noise(x))])
    with pytest.raises(ValueError, match="must be fitted"):
        Mahalanobis()(model, x, noise(x))
    assert repr(named) == repr(Mahalanobis()), "stored evidence is named by it"


def test_both_are_larger_where_no_class_is():
    model, (x, _), out = classifier(), inliers(), outs()
    for probe, name in ((ODIN(), "score"), (fitted(model), "distance")):
        inside, outside = (probe(model, e, noise(e))[name] for e in (x, out))
        assert (outside[:, None] > inside).float().mean() > 0.9, name


def test_evaluation_fits_on_what_was_trained_on(tmp_path):
    model, (x, y) = classifier(), inliers()
    evaluated = evaluate.EvaluatedModel(model, "last", tmp_path, tmp_path, Device("cpu", "32"), 0)
    trained = Examined(x.numpy(), "own", "train", "hash", y.numpy())
    probes = evaluate.fit_probes(evaluated, {"m": Mahalanobis(), "logits": Logits()}, lambda: trained)
    assert probes["logits"] == Logits()
    for name, value in fitted(model).fitted.items():
        torch.testing.assert_close(probes["m"].fitted[name], value)
    evidence = evaluate.collect_evidence(evaluated, probes, trained)
    assert evidence["m/distance"].shape == (60,) and evidence["logits/logits"].shape == (3, 60)
    torch.testing.assert_close(evidence["logits/logits"], model.logits(x).T)


def test_evaluation_fits_each_member_of_an_ensemble(tmp_path):
    (x, y), first, second = inliers(), uncut(), uncut(bias=2.0)  # the second's features are cut, yet not all
    evaluated = evaluate.EvaluatedModel(Ensemble([first, second]), "last", tmp_path, tmp_path, Device("cpu", "32"), 0)
    trained = Examined(x.numpy(), "own", "train", "hash", y.numpy())
    probes = evaluate.fit_probes(evaluated, {"members": Members(Mahalanobis())}, lambda: trained)
    found = evaluate.collect_evidence(evaluated, probes, trained)["members/distance"]
    for row, model in zip(found, (first, second), strict=True):
        with torch.inference_mode():
            alone = Mahalanobis().fit(model, [(x, y, noise(x))])(model, x, noise(x))["distance"]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-6)
    assert not torch.equal(*found)


@pytest.mark.parametrize("make", [ODIN, Mahalanobis])
def test_the_missing_extra_is_named(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_ood.detector", None)
    with pytest.raises(UserError, match=r"pip install 'oodgen\[baselines\]'"):
        make()
