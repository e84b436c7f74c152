"""What a training refuses before it begins."""

from functools import partial

import pytest
import torch

from oodgen import train
from oodgen.device import Device
from oodgen.errors import UserError
from oodgen.methods.classifier import CrossEntropy
from oodgen.methods.ensemble import GenerativeEnsemble
from oodgen.methods.likelihood import MaximumLikelihood
from oodgen.methods.wgan import Turns, WassersteinGAN
from oodgen.models.classifier import DenseClassifier
from oodgen.models.dense_vae import DenseVAE
from oodgen.models.likelihoods import GaussianRows
from oodgen.models.wgan import WGAN

sgd = partial(torch.optim.SGD, lr=0.0)


def likelihood(seed=0):
    return MaximumLikelihood(DenseVAE((3,), 2, 4, 4, GaussianRows(1.0)), sgd, seed)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: WassersteinGAN(WGAN((1, 4, 4), 2, 2), sgd, Turns()), "WGAN"),
        (lambda: CrossEntropy(DenseClassifier((3,), 3, [4]), sgd), "DenseClassifier"),
        (lambda: GenerativeEnsemble(likelihood, 2), "Ensemble"),
    ],
)
def test_a_model_without_a_forward_pass_is_not_said_to_be_compiled(tmp_path, make, name):
    device = Device("cpu", "32", False, compile=True)
    with pytest.raises(UserError, match=f"device.compile .* and a {name} has none; leave it out"):
        train.fit(make(), None, tmp_path, device, {})
    assert not list(tmp_path.iterdir())
