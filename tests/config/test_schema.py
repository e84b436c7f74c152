"""What a config may say, decided before torch is imported: types, ranges, names, and a fuzz over all options."""

import copy
import importlib
import inspect
import math
import random
import re
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from oodgen.config import kinds, schema, signatures
from oodgen.config.allowed import DECIDED, OTHERS, TRAINER
from oodgen.errors import UserError
from oodgen.runs.locations import config_dir

LIKELIHOOD = {"_target_": "oodgen.models.likelihoods.Gaussian", "sigma": 1}
PRIOR = {"_target_": "oodgen.models.vae.Isotropic", "sigma": 2}
VAE = {
    "_target_": "oodgen.models.vae.VAE",
    "shape": [1, 28, 28],
    "latent": 2,
    "channels": [4],
    "strides": [2],
    "kernel": 3,
    "likelihood": LIKELIHOOD,
    "decoder": None,
    "batch_norm": False,
    "prior": PRIOR,
}
HIERARCHY = {
    "_target_": "oodgen.models.hierarchy.BottomUpVAE",
    "shape": [1, 28, 28],
    "layers": [{"latent": 2}],
    "likelihood": LIKELIHOOD,
}
DATA = {
    "_target_": "oodgen.data.module.OODDataModule",
    "inlier": {"_target_": "oodgen.data.mnist.mnist"},
    "out": {"kmnist": {"_target_": "oodgen.data.mnist.kmnist"}},
    "size": None,
    "root": "data",
}
ADAM = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1, "betas": [0.9, 0.99]}
METHOD = {
    "_target_": "oodgen.methods.informative.Informative",
    "model": VAE,
    "optimizer": ADAM,
    "weights": "mean",
    "decay": "linear",
}
LLR = {"_target_": "oodgen.scores.ratio.llr", "_partial_": True, "k": 1}

PROBE = {"samples": 0}
GRADIENT = {"_target_": "oodgen.probes.gradient.Gradient"}


@pytest.mark.parametrize(
    ("where", "config"),
    [
        ("model", VAE),
        ("model", HIERARCHY),
        ("data", DATA),
        ("method", METHOD),
        ("method", {**METHOD, "weights": 0.1}),
        ("method", {**METHOD, "weights": [1, 0.5], "optimizer": {**ADAM, "fused": None}}),
        ("data", {**DATA, "size": [32, 32], "resident": 1}),
        ("scores.x", LLR),
        ("scores.x", {"_target_": "oodgen.scores.typicality.Typicality"}),
        ("device", {"precision": 32}),
    ],
)
def test_what_fits_passes(where, config):
    schema.check_part(config, where)


@pytest.mark.parametrize(
    ("where", "config", "words"),
    [
        ("model", {**VAE, "latent": "x"}, "model.latent='x' is not a whole number"),
        ("model", {**VAE, "latent": 1.0}, "model.latent=1.0 is not a whole number"),
        ("model", {**VAE, "latent": True}, "model.latent=true is not a whole number"),
        ("model", {**VAE, "latent": 0}, "model.latent=0 must be at least 1"),
        ("model", {**VAE, "latent": 10**30}, "beyond what a whole number may be"),
        ("model", {**VAE, "batch_norm": 1}, "model.batch_norm=1 is not true or false"),
        ("model", {**VAE, "batch_norm": 0}, "model.batch_norm=0 is not true or false"),
        ("model", {**VAE, "decoder": 8}, "model.decoder=8 is not a list or null; write model.decoder=[8]"),
        ("model", {**VAE, "strides": [2, "x"]}, "model.strides[1]='x' is not a whole number"),
        ("model", {**VAE, "activation": "LeakyRelu"}, "did you mean LeakyReLU?"),
        ("model", {**VAE, "activation": "Module"}, "model.activation='Module' is not 'ReLU' or"),
        ("model", {**VAE, "unknown": "x"}, "there is no option 'model.unknown'; model has: shape, latent"),
        ("model", {**VAE, "latnet": 2}, "there is no option 'model.latnet'; did you mean latent?"),
        ("model", {k: v for k, v in VAE.items() if k != "kernel"}, "model is missing the argument 'kernel' of VAE"),
        ("model", {**VAE, "likelihood": "gaussian"}, "choose it as likelihood@model.likelihood=gaussian"),
        ("model", {**VAE, "likelihood": PRIOR}, "VAE takes a Likelihood, which Isotropic is not"),
        (
            "model",
            {**VAE, "likelihood": {**LIKELIHOOD, "sigma": "x"}},
            "model.likelihood.sigma='x' is not a number or null",
        ),
        ("model", {**VAE, "prior": {**PRIOR, "mean": math.inf}}, "model.prior.mean=inf must be a finite number"),
        ("model", {**HIERARCHY, "layers": [{"latnet": 2}]}, "'model.layers[0].latnet'; did you mean latent?"),
        ("model", {**HIERARCHY, "layers": [{"dense": True}]}, "model.layers[0] is missing the argument 'latent'"),
        ("data", {**DATA, "size": 28}, "data.size=28 is not a list or null"),
        ("data", {**DATA, "size": [28, "x"]}, "data.size[1]='x' is not a whole number"),
        ("data", {**DATA, "size": [28]}, "data.size=[28] is not a list of 2"),
        ("data", {**DATA, "inlier": "mnist"}, "choose it as dataset@data.inlier=mnist"),
        ("data", {**DATA, "inlier": "???"}, "data.inlier is not set; give it as data.inlier=VALUE"),
        ("data", {**DATA, "out": {"kmnist": None}}, "data.out.kmnist=null is empty; remove it with ~data.out"),
        ("data", {**DATA, "validation": math.nan}, "data.validation=nan must be a finite number"),
        ("data", {**DATA, "smoke": "abc"}, "data.smoke='abc' is not true or false"),
        ("method", {**METHOD, "optimizer": {**ADAM, "lr": "x"}}, "method.optimizer.lr='x' is not a number"),
        ("method", {**METHOD, "optimizer": {**ADAM, "betas": [0.9, 1]}}, "method.optimizer.betas[1]=1 must be below 1"),
        ("method", {**METHOD, "optimizer": {**ADAM, "_partial_": 1}}, "_partial_=1 is not true or false"),
        ("method", {**METHOD, "optimizer": {**ADAM, "_partial_": False}}, "add _partial_: true"),
        ("method", {**METHOD, "_partial_": True}, "method._partial_=true makes a function of Informative"),
        ("method", {**METHOD, "weights": [1, "x"]}, "method.weights[1]='x' is not a number"),
        ("method", {**METHOD, "weights": None}, "method.weights=null is not 'mean' or 'sum' or a number or a list"),
        ("method", {**METHOD, "decay": 1}, "method.decay=1 is not 'constant' or 'linear' or 'cosine'"),
        ("method", {**METHOD, "decay": "linaer"}, "method.decay='linaer' is not 'constant' or"),
        ("method", {**METHOD, "model": HIERARCHY, "_target_": "oodgen.methods.bpvae.BPVAE"}, "model=vae_"),
        ("scores.x", {**LLR, "k": -1}, "scores.x.k=-1 must be at least 0"),
        ("scores.x", {**LLR, "evidence": {}}, "there is no option 'scores.x.evidence'"),
        ("scores.x", {k: v for k, v in LLR.items() if k != "k"}, "scores.x is missing the argument 'k' of llr"),
        ("probes.bounds", math.inf, "probes.bounds=inf is not a Probe"),
        ("probes.x", {**PROBE, "_target_": "oodgen.probes.bounds.Bounds"}, "probes.x.samples=0 must be at least 1"),
        ("probes.x", {**PROBE, "_target_": "oodgen.probes.below.Below"}, "probes.x.samples=0 must be at least 1"),
        (
            "probes.x",
            {**PROBE, "_target_": "oodgen.probes.density.LogDensity"},
            "probes.x.samples=0 must be at least 1",
        ),
        ("probes.x", {**GRADIENT, "fitted": {}}, "there is no option 'probes.x.fitted'; probes.x has: examples"),
        ("probes.x", {"_target_": "oodgen.probes.regret.Regret", "lr": 0}, "probes.x.lr=0 must be positive"),
        ("probes.x", {"_target_": "oodgen.probes.baselines.ODIN", "eps": -1}, "probes.x.eps=-1 must be at least 0"),
        ("device", {"speed": 1}, "there is no option 'device.speed'; device has: accelerator, precision"),
        ("device", {"threads": -3}, "device.threads=-3 must be at least 1"),
        ("trainer", {"devices": 2}, "trainer.devices is set by oodgen; use -m seed=0,1"),
        ("trainer", {"max_time": 1}, "trainer.max_time=1 is not a time as '00:12:00:00'"),
        ("trainer", {"max_epoch": 1}, "there is no option 'trainer.max_epoch'; did you mean max_epochs"),
        ("trainer", {"limit_val_batches": 2.5}, "trainer.limit_val_batches=2.5 must be at most 1"),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(where, config, words):
    with pytest.raises(UserError) as caught:
        schema.check_part(config, where)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def _composed(*overrides):
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("run", list(overrides)), resolve=True)


@pytest.fixture(scope="module")
def quickstart():
    return _composed("+experiment=quickstart", "logger=wandb", "callbacks=ema")


def _put(config, place, value):
    """A copy of a config with another value at a place, a tuple of keys."""
    changed = copy.deepcopy(config)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("retrain", "no", "true or false"),
        ("smoke", "no", "true or false"),
        ("retrain", math.nan, "true or false"),
        ("retrain", "", "true or false"),
        ("method.free_bits.nats", math.nan, "finite"),
        ("method.free_bits.hold", -math.inf, "finite"),
        ("eval_seed", True, "whole number"),
        ("eval_seed", 1.5, "whole number"),
        ("seed", 2**32, "below 4294967296"),
        ("snapshots", [1.5], "whole number"),
        ("snapshots", [-1], "at least 1"),
        ("notes", "abc", "a list; write notes=[abc]"),
        ("data.smoke", "abc", "true or false"),
        ("means", "abc", "a group of options"),
        ("probes", math.inf, "a group of options"),
        ("paper", 1e30, "a single name or null"),
        ("paper", 5, "in quotes, '5'"),
        ("oracle", 5, "a group of options"),
        ("runs", True, "text"),
        ("runs", "", "text"),
        ("checkpoint", None, "last, best or epochN"),
        ("checkpoint", "epoch0", "last, best or epochN"),
        ("data.validation", math.nan, "finite"),
        ("data.batch_size", 0, "at least 1"),
        ("trainer.max_steps", 0, "other than 0"),
        ("trainer.max_time", 1, "a time"),
        ("device.threads", -3, "at least 1"),
        ("method.optimizer._partial_", "yes", "true or false"),
        *(("name", name, "a single name") for name in ("", ".", "..", "a/b", "../escape", "a\nb", "a\\b", None)),
    ],
)
def test_a_wrong_value_is_named_and_smoke_hides_nothing(quickstart, option, value, words, smoke):
    config = _put({**quickstart, "smoke": smoke}, option.split("."), value)
    with pytest.raises(UserError) as caught:
        schema.check(config)
    assert str(caught.value).startswith((f"{option}=", f"{option}[0]=")) and words in str(caught.value)


# Wrong at most places; a text is right wherever a text is free, a huge number wherever a size of its kind trains badly
# or stops with the words of whoever runs out of something.
WRONG = {
    "text": ["abc", "", "no"],
    "not a number": [math.nan],
    "infinite": [math.inf, -math.inf],
    "boolean": [True, False],
    "negative": [-1, -0.5],
    "fraction": [1.5],
    "list": [[], ["abc"], [[1]]],
    "mapping": [{"a": 1}, {"_target_": "os.system"}],
    "null": [None],
    "huge": [1e300, 10**30, -(10**30)],
}
FREE = {
    "text": "any text is a name, a note, a folder or a word that is looked up later",
    "null": "null is this option's own word for none, automatic, or no limit",
    "boolean": "the option is a boolean",
    "list": "a list, here of nothing or of texts, is what the option wants",
    "negative": "-1 is no limit to the trainer; a shift, a mean and a version may be negative",
    "fraction": "the option is a number",
    "huge": "a finite number is right: what is too large for a training is said as a divergence",
    "mapping": "settings of W&B are handed on as they are",
}


def _leaves(config, place=()):
    items = config.items() if isinstance(config, dict) else enumerate(config)
    for key, value in items:
        yield (*place, key)
        if isinstance(value, (dict, list)):
            yield from _leaves(value, (*place, key))


def _right(place, kind, value, before):
    """Whether a value is right although it is a strange one, and for which reason."""
    last = str(place[-1])
    texts = ("name", "probe", "project", "entity", "group", "paper", "paper_method", "save_dir", "runs", "root")
    texts += ("characters", "below", "image")
    texts += ("score", "set", "metric")  # of the objective, which the rehearsal looks for among the rows of results
    optional = ("root", "probe", "project", "entity", "group", "paper_method", "below", "image")
    optional += (place[-1],) if isinstance(place[-1], int) and isinstance(before, str) else ()
    numbers = isinstance(before, float) or last in ("gradient_clip_val", "warmup", "hold", "anneal", "sigma", "shift")
    anonymous = isinstance(place[-1], int)  # an item of a list of texts
    return {
        "text": (last in texts or (anonymous and isinstance(before, str)))
        and (value or last not in ("name", "paper", "runs", "save_dir")),
        "boolean": isinstance(before, bool) or (last in ("version", "channels_last", "log_model")),
        "null": before is None
        or last in ("limit", "budget", "free_bits", "prior", "max_epochs", "sigma", "paper", "paper_method"),
        "list": isinstance(before, list) or last in ("scores", "tags"),
        "negative": last in ("max_epochs", "max_steps", "mean", "shift", "name", "seed"),
        "fraction": numbers or last == "nats",
        "huge": numbers and kind == "huge",
        "mapping": last in ("settings", "oracle") or len(place) == 1,
    }.get(kind, False)


EXPERIMENTS = ("quickstart", "fashion_mnist_ns_generated", "credit_fraud_vae_ensemble", "mnist_wgan", "mnist_vib")


def test_a_fuzz_of_wrong_values_is_answered_in_one_line():
    composed = [_composed(f"+experiment={name}") for name in EXPERIMENTS]
    composed[0] = _composed("+experiment=quickstart", "logger=wandb", "callbacks=ema")
    draw, refused, passed = random.Random(0), 0, []
    places = [(config, place) for config in composed for place in _leaves(config)]
    for _ in range(300):
        (config, place), kind = draw.choice(places), draw.choice(sorted(WRONG))
        value, before = draw.choice(WRONG[kind]), config
        for key in place:
            before = before[key]
        try:
            schema.check(_put(config, place, value))
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 900, (place, value)
        else:
            passed.append((place, kind, value, before))
    wrong = [one for one in passed if not _right(one[0], one[1], one[2], one[3]) or one[1] not in FREE]
    assert not wrong, wrong
    assert refused > 200, refused


def test_every_number_of_a_shipped_part_has_a_range():
    """Since constructors do not check what the schema checks; those left out may have any finite value."""
    shipped = {
        name
        for path in config_dir().rglob("*.yaml")
        for name in re.findall(r"_target_: (oodgen[.\w]+)", path.read_text())
    }
    parts = {name: signatures.arguments(signatures.find_target(name, kinds.packages())) for name in shipped}
    free = {
        f"{name}.{key}"
        for name, known in parts.items()
        for key, one in known.items()
        if _numbers(one.hint) & {int, float}
    }
    names = {name.rpartition(".")[2] for name in free}
    assert len(parts) > 60 and names == {"mean", "shift", "best", "reference"}, free


def _numbers(hint):
    """The types of a hint, those of the elements of a list included, that have no range."""
    found = [kind for kind in kinds.options(hint) if typing.get_origin(kind) not in (Annotated, Callable)]
    return {*found}.union(*(_numbers(one) for kind in found for one in typing.get_args(kind)))


def test_a_wrong_option_is_answered_without_torch(tmp_path):
    script = (
        "import sys, runpy; sys.modules['torch'] = sys.modules['pytorch_lightning'] = None\n"
        "sys.argv = ['oodgen', '-m', '+experiment=quickstart', 'smoke=true', "
        "'data.batch_size=0,-1,.inf,true,[2]', f'runs={sys.argv[1]}']\n"
        "runpy.run_module('oodgen.run', run_name='__main__')"
    )
    call = [sys.executable, "-c", script, str(tmp_path / "runs")]
    ended = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 2 and "5 of 5 cells failed" in ended.stderr, ended.stderr
    assert ended.stderr.count("failed: data.batch_size=") == 5 + 1
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_kept_runs_of_the_papers_may_still_be_loaded():
    kept = sorted(Path(__file__).parents[2].glob("experiments/*/runs/**/config.yaml"))
    assert len(kept) > 50
    for path in kept:
        schema.check(yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader), complete=False)


def test_what_is_said_of_the_trainer_is_what_lightning_has():
    import pytorch_lightning as pl

    assert set(TRAINER) | set(DECIDED) <= set(inspect.signature(pl.Trainer).parameters)


@pytest.mark.parametrize(("kind", "target"), [(kind, target) for kind, them in OTHERS.items() for target in them])
def test_what_is_said_of_classes_of_other_packages_is_what_they_have(kind, target):
    def true(name):
        module, _, last = name.rpartition(".")
        return getattr(importlib.import_module(module), last)

    assert issubclass(true(target), true(kind))
    parameters = inspect.signature(true(target)).parameters
    further = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    assert further or set(OTHERS[kind][target]) <= set(parameters)


PUBLIC = [
    f"oodgen.{path.parent.name}.{path.stem}"
    for room in ("models", "methods", "probes", "scores", "data")
    for path in sorted((Path(schema.__file__).parents[1] / room).glob("[a-z]*.py"))
]


@pytest.mark.parametrize("module", PUBLIC)
def test_what_the_source_says_is_what_python_finds(module):
    true = importlib.import_module(module)
    for name in true.__all__:
        thing, found = getattr(true, name), signatures.find_target(f"{module}.{name}", frozenset({"oodgen"}))
        if not isinstance(thing, type) and not inspect.isfunction(thing):
            continue
        assert found is not None, name
        if isinstance(thing, type):
            ours = [base.__name__ for base in thing.__mro__ if base.__module__.startswith("oodgen")]
            assert [base.__name__ for base in found.__mro__ if base.__module__.startswith("oodgen")] == ours, name
            if getattr(thing, "_is_protocol", False) or issubclass(thing, tuple):
                continue
        known = signatures.arguments(found)
        assert known is not None and [key for key in known if key != "**"] == [
            key
            for key, one in inspect.signature(thing).parameters.items()
            if one.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        ], name
