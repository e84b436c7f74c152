"""How much each layer is used, as rows and on the page: a layer that ignores its image is shown as collapsed."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from oodgen.data.preprocess import TestSet as Examined
from oodgen.evaluation.evaluate import EvaluatedModel
from oodgen.evaluation.latent_usage import latent_usage
from oodgen.models.biva import BIVA
from oodgen.models.hierarchy import BottomUpVAE
from oodgen.models.ladder import LadderVAE
from oodgen.models.likelihoods import Bernoulli
from oodgen.noise import ExampleNoise, RandomNoise
from oodgen.report import tables
from oodgen.report.page import USAGE
from oodgen.training.device import Device

WHO = ("experiment", "print", 0)


@pytest.fixture(params=[BottomUpVAE, LadderVAE, BIVA])
def evaluated(tmp_path, request):
    torch.manual_seed(0)
    layers = [
        {"latent": 2, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
        {"latent": 3, "dense": True, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
    ]
    model = request.param((1, 6, 6), layers, Bernoulli("threshold"))
    model.initialise(torch.rand(64, 1, 6, 6), RandomNoise())
    return EvaluatedModel(model.eval(), "last", tmp_path, tmp_path, Device("cpu", "32"), 0)


def sets(n=150):
    rng = np.random.default_rng(0)
    return {name: Examined(rng.integers(0, 256, (n, 1, 6, 6), np.uint8), name, "test", "hash") for name in ("a", "b")}


def ask(evaluated, count=1000):
    return {(row.out, row.score, row.metric): row for row in latent_usage(evaluated, WHO, sets(), count)}


def test_kl_is_that_of_the_bound_and_every_set_and_layer_is_there(evaluated):
    found = ask(evaluated)
    assert set(found) == {(s, z, m) for s in "ab" for z in ("z1", "z2") for m in USAGE}
    x = torch.tensor(sets()["b"].x)
    noise = ExampleNoise(0, torch.arange(len(x)))
    with torch.inference_mode():
        y = evaluated.model.observe(x, noise)
        kls = evaluated.model(y, noise).kls.mean((1, 2))
        mean = evaluated.model.posteriors(y)[1].mean[0]
    for i in (1, 2):
        assert found["b", f"z{i}", "kl"].value == pytest.approx(kls[i - 1].item(), rel=1e-4)
        assert 0 < found["b", f"z{i}", "information"].value <= math.log(150)
    assert found["b", "z2", "active"].value == (mean.var(0) > 0.01).sum()
    row = found["a", "z1", "kl"]
    assert (row.inlier, row.n_in, row.protocol) == ("a", 150, "full") and math.isnan(row.low)
    assert ask(evaluated, 40)["a", "z1", "kl"].n_in == 40


def test_a_collapsed_layer_is_seen(evaluated):
    model = evaluated.model
    head = {BottomUpVAE: "posterior.1.head", LadderVAE: "evidence.1", BIVA: "bottom_up.1"}[type(model)]
    with torch.no_grad():
        model.get_submodule(head).layer.g.zero_()  # z_2 no longer looks at its image
    found = ask(evaluated)
    assert found["a", "z2", "active"].value == 0
    assert found["a", "z2", "information"].value == pytest.approx(0, abs=1e-5)
    assert found["a", "z1", "information"].value > 1 and found["a", "z1", "active"].value > 0


def test_a_model_that_shows_no_posteriors_has_no_rows(evaluated):
    assert latent_usage(evaluated._replace(model=nn.Linear(1, 1)), WHO, sets()) == []


def test_rows_become_a_table_for_each_measure(evaluated):
    table = tables.pivot(tables.aggregate(ask(evaluated).values()), "active")
    assert table.head == ("score", "a", "b") and [line.entries[0].text for line in table.lines] == ["z1", "z2"]
    assert table.lines[0].entries[0].small == "code of level 1"
