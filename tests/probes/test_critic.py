"""The probe of a critic: the model's own value, whatever the batch; its score, upside down."""

import numpy as np
import pytest
import torch

from oodgen.data.preprocess import TestSet as Examined
from oodgen.evaluation import evaluate
from oodgen.models.critic import Critic
from oodgen.models.wgan import WGAN
from oodgen.noise import ExampleNoise
from oodgen.probes.critic import CriticValue
from oodgen.scores.critic import d
from oodgen.training.device import Device


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return WGAN((1, 8, 8), 3, 4).eval()


@pytest.fixture(scope="module")
def x():
    return torch.randint(256, (7, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [1, 3, 7, 200])
def test_evidence_is_the_models_value_whatever_the_batch(model, x, size, tmp_path, monkeypatch):
    probe = CriticValue()
    monkeypatch.setattr(CriticValue, "batch", lambda self, model: size)
    evaluated = evaluate.EvaluatedModel(model, "last", tmp_path, tmp_path, Device("cpu", "32"), 0)
    found = evaluate.collect_evidence(evaluated, {"critic": probe}, Examined(x.numpy(), "mnist", "test", "hash"))
    assert found.keys() == {"critic/d"} and found["critic/d"].dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(found["critic/d"], model.value(x / 255))
    assert torch.equal(d(found), -found["critic/d"])


def test_it_asks_critics_alone_and_all_of_them(model, x):
    assert CriticValue.needs is Critic and CriticValue().batch(model) > 0
    with torch.no_grad():
        found = CriticValue()(model, x, ExampleNoise(0, torch.arange(7)))["d"]
        other = CriticValue()(model, x, ExampleNoise(1, torch.arange(7)))["d"]
    assert torch.equal(found, other)  # it draws nothing
    assert np.unique(found.numpy()).size == 7
