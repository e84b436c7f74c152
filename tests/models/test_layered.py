"""What every hierarchy of layers refuses."""

import pytest
import torch

from oodgen.errors import UserError
from oodgen.models.biva import BIVA
from oodgen.models.hierarchy import BottomUpVAE
from oodgen.models.ladder import LadderVAE
from oodgen.models.likelihoods import Bernoulli
from oodgen.noise import ExampleNoise

LAYERS = [{"latent": 2, "channels": 3, "kernel": 3, "blocks": 1, "dense": i > 0} for i in range(3)]
hierarchies = pytest.mark.parametrize("hierarchy", [BottomUpVAE, LadderVAE, BIVA])


@hierarchies
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": []}, "model.layers is empty"),
        ({"layers": [{"latent": 2, "kernel": 4}]}, "kernel=4 must be odd"),
        ({"scale": "std"}, "model.scale='std' is not one of"),
        ({"shape": (30,)}, r"model.shape=\[30\] is not an image shape"),
    ],
)
def test_a_model_that_cannot_be_is_refused_in_one_line(hierarchy, change, message):
    options = {"shape": (1, 6, 5), "layers": LAYERS[:1], "likelihood": Bernoulli()} | change
    with pytest.raises(UserError, match=message) as error:
        hierarchy(**options)
    assert "\n" not in str(error.value)


@hierarchies
@pytest.mark.parametrize(("ks", "samples"), [([4], [1]), ([-1], [1]), ([0, 1], [1])])
def test_levels_outside_the_hierarchy_are_refused(hierarchy, ks, samples):
    model, noise = hierarchy((1, 6, 5), LAYERS, Bernoulli()), ExampleNoise(0, torch.arange(2))
    with pytest.raises(ValueError, match="do not fit a hierarchy of 3 layers"):
        model.bounds(torch.zeros(2, 1, 6, 5), noise, ks, samples)
    with pytest.raises(ValueError, match="do not fit a hierarchy of 3 layers"):
        model.reconstruct(torch.zeros(2, 1, 6, 5), noise, 4)
