"""The values of a config against the annotations of what is built from it."""

import pytest

from oodgen.config.schema import check_values
from oodgen.errors import UserError

VAE = {
    "_target_": "oodgen.models.vae.VAE",
    "shape": [1, 28, 28],
    "latent": 2,
    "channels": [4],
    "strides": [2],
    "kernel": 3,
    "likelihood": {"_target_": "oodgen.models.likelihoods.Gaussian", "sigma": 1},
    "decoder": None,
    "batch_norm": False,
    "prior": {"_target_": "oodgen.models.vae.Isotropic", "sigma": 2},
}
DATA = {
    "_target_": "oodgen.data.module.OODDataModule",
    "inlier": {"_target_": "oodgen.data.mnist.mnist"},
    "out": {"kmnist": {"_target_": "oodgen.data.mnist.kmnist"}},
    "size": None,
    "root": "data",
}
INFORMATIVE = {"_target_": "oodgen.methods.informative.Informative", "weights": "mean", "decay": "linear"}
ADAM = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1, "betas": [0.9, 0.99]}


@pytest.mark.parametrize(
    "config",
    [
        VAE,
        DATA,
        ADAM,
        INFORMATIVE,
        {**INFORMATIVE, "weights": 0.1},
        {**INFORMATIVE, "weights": [1, 0.5]},
        [VAE],
        {"deep": {"er": VAE}},
        {**DATA, "size": [32, 32], "resident": 1},
        {**VAE, "unknown": "x"},
    ],
)
def test_what_fits_passes(config):
    check_values(config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**VAE, "latent": "x"}, "model.latent='x' is not a whole number"),
        ({**VAE, "latent": 1.0}, "model.latent=1.0 is not a whole number"),
        ({**VAE, "latent": True}, "model.latent=true is not a whole number"),
        ({**VAE, "batch_norm": 1}, "model.batch_norm=1 is not true or false"),
        ({**VAE, "decoder": 8}, "model.decoder=8 is not a list or null"),
        ({**VAE, "strides": [2, "x"]}, "model.strides[1]='x' is not a whole number"),
        ({**VAE, "activation": None}, "model.activation=null is not text"),
        (
            {**VAE, "activation": 12},
            "model.activation=12 is not text; Hydra reads it as a number, so write it in quotes",
        ),
        ({**VAE, "likelihood": "gaussian"}, "is not a Likelihood; choose it as likelihood@model.likelihood=gaussian"),
        (
            {**VAE, "likelihood": {**VAE["likelihood"], "sigma": "x"}},
            "model.likelihood.sigma='x' is not a number or null",
        ),
        ({**DATA, "size": 28}, "model.size=28 is not a list or null"),
        ({**DATA, "size": [28, "x"]}, "model.size[1]='x' is not a whole number"),
        ({**DATA, "inlier": "mnist"}, "dataset@model.inlier=mnist"),
        ({**DATA, "out": {"kmnist": None}}, "model.out.kmnist=null names nothing; leave it out with ~model.out.kmnist"),
        ({**ADAM, "lr": "x"}, "model.lr='x' is not a number"),
        ({**INFORMATIVE, "weights": [1, "x"]}, "model.weights[1]='x' is not a number"),
        ({**INFORMATIVE, "weights": None}, "model.weights=null is not 'mean' or 'sum' or a number or a list"),
        ({**INFORMATIVE, "decay": 1}, "model.decay=1 is not 'constant' or 'linear' or 'cosine'"),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(config, words):
    with pytest.raises(UserError) as caught:
        check_values({"model": config})
    assert words in str(caught.value)
