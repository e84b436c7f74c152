"""From a config to an ensemble: parts of each member's own, and questions that its members can answer."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from oodgen.config.components import build_components
from oodgen.config.instantiate import build, build_model
from oodgen.data.module import OODDataModule
from oodgen.data.resident import Batch
from oodgen.errors import UserError
from oodgen.methods.together import Stacked, sequential
from oodgen.noise import ExampleNoise
from oodgen.runs import record
from oodgen.runs.locations import config_dir
from oodgen.training.assembly import member_config

ENSEMBLE = ("data=fashion_mnist_mnist", "model=vae_grey", "method=ensemble", "smoke=true", "device.accelerator=cpu")
MEMBERS = ("~probes.bounds", "+probe@probes.members=members", "score@scores=ensemble")


def config(*overrides):
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("run", list(overrides)), resolve=True)


def test_members_share_no_part():
    method = build(config(*ENSEMBLE)["method"], "method")
    assert [member.seed for member in method.methods] == [0, 1, 2, 3, 4]
    for kind in ("parameters", "buffers", "modules"):
        own = [set(map(id, getattr(member, kind)())) for member in method.model.members]
        assert all(own) and len(set.union(*own)) == sum(map(len, own)), kind


def test_each_member_starts_as_the_single_model_of_its_seed():
    made = build_components(config(*ENSEMBLE, *MEMBERS, "seed=3", "method.size=2"))
    for member, seed in zip(made.method.model.members, (3000, 3001), strict=True):
        alone = build_components(config("data=fashion_mnist_mnist", "model=vae_grey", "smoke=true", f"seed={seed}"))
        for key, value in alone.method.model.state_dict().items():
            assert torch.equal(member.state_dict()[key], value), key
    assert isinstance(made.data, OODDataModule) and made.data.members == 2
    assert made.data.train_dataloader().batch(0).x.shape == (2, 4, 1, 28, 28)


@pytest.mark.parametrize("method", ["maximum_likelihood", "ensemble"])
def test_the_model_alone_is_that_of_its_method(method):
    made = config("data=fashion_mnist_mnist", "model=vae_grey", f"method={method}")
    alone, model = build_model(made), build(made["method"], "method").model
    assert type(alone) is type(model)
    model.load_state_dict(alone.state_dict())
    assert [tensor.shape for tensor in model.state_dict().values()] == [t.shape for t in alone.state_dict().values()]
    parts = [set(map(id, member.parameters())) for member in getattr(alone, "members", ())]
    assert len(set().union(*parts)) == sum(map(len, parts))


def test_a_deep_ensemble_of_classifiers_is_the_command_beside_its_scores():
    header = (config_dir() / "score/classifier_ensemble.yaml").read_text().split("method=ensemble")[1].split("msp:")[0]
    words = [word for word in header.split() if word != "#"]
    options = ("+experiment=mnist_classifier", "smoke=true", "method=ensemble", *words, "method.size=2")
    made = build_components(config(*options))
    x = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    with torch.inference_mode():
        said = made.probes["members"](made.method.model.eval(), x, ExampleNoise(0, torch.arange(3)))
        p = torch.stack([m.logits(m.observe(x, ExampleNoise(0, torch.arange(3)))) for m in made.method.model.members])
    mean = p.double().softmax(-1).mean(0)
    evidence = {f"members/{name}": value for name, value in said.items()}
    torch.testing.assert_close(made.scores["entropy"](evidence), -(mean * mean.log()).sum(-1))


@pytest.mark.parametrize(
    ("together", "single"),
    [
        *((f"{data}_wgan_ensemble", f"{data}_wgan") for data in ("mnist", "fashion_mnist", "cifar10")),
        ("fashion_mnist_vae_ensemble", "fashion_mnist_vae"),
        ("credit_fraud_vae_ensemble", "credit_fraud_vae"),
        ("cifar10_glow_ensemble", "cifar_svhn_glow"),
    ],
)
def test_a_members_own_training_is_that_of_the_single_models_command(together, single):
    whole = config(f"+experiment={together}", "seed=2")
    own = record.fingerprint(config(f"+experiment={single}", "seed=2004"))
    assert record.fingerprint(member_config(whole, 5)) == own
    assert record.fingerprint(member_config(whole, 4)) != own


def test_a_members_own_training_is_mutated_at_the_members_rate():
    whole = config("+experiment=fashion_mnist_background")
    plain, background = member_config(whole, 1), member_config(whole, 2)
    assert "mutation" not in plain["data"] and background["data"]["mutation"] == 0.2
    none, zero, some = (config("+experiment=quickstart", f"+data.mutation={rate}") for rate in ("null", 0, 0.2))
    assert record.fingerprint(none) == record.fingerprint(zero) != record.fingerprint(some)


def test_an_argument_of_a_member_that_does_not_fit_is_named():
    with pytest.raises(UserError, match=r"method.member.samples='x' is not a whole number"):
        build_components(config(*ENSEMBLE, *MEMBERS, "method.member.samples=x"))
    with pytest.raises(UserError, match=r"no option 'method\.member\.nonsense'"):
        build_components(config(*ENSEMBLE, *MEMBERS, "+method.member.nonsense=1"))
    with pytest.raises(UserError, match=r"method\.member\.optimizer\._target_='os\.getcwd' is not allowed here"):
        build_components(config(*ENSEMBLE, *MEMBERS, "method.member.optimizer._target_=os.getcwd"))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ((*ENSEMBLE, "score@scores=vae"), r"probe 'bounds' needs a Hierarchy, but the model is a Ensemble"),
        (
            (*ENSEMBLE, *MEMBERS, "model=glow_tiny", "model.shape=[1,28,28]"),
            r"probe 'members' needs a Hierarchy, but the model is a Glow; .*~probes.members",
        ),
        (
            ("data=fashion_mnist_mnist", "model=vae_grey", "smoke=true", *MEMBERS),
            r"probe 'members' needs a Ensemble, but the model is a VAE",
        ),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused_before_training(overrides, line):
    with pytest.raises(UserError, match=line):
        build_components(config(*overrides))


def test_another_probe_and_another_method_of_a_member():
    glow = ("model=glow_tiny", "model.shape=[1,28,28]", "probe@probes.members.probe=log_density", "method.size=2")
    assert build_components(config(*ENSEMBLE, *MEMBERS, *glow)).probes["members"].probe.samples == 1
    made = build_components(config(*ENSEMBLE, *MEMBERS, "method@method.member=bpvae", "method.size=2"))
    assert [type(member).__name__ for member in made.method.methods] == ["BPVAE"] * 2


@pytest.mark.parametrize("name", ["vae_fraud", "vae_grey", "vae_colour", "hvae_tiny", "glow_tiny"])
def test_models_can_be_stacked(name):
    options = (f"model={name}", "method.size=2", "method.member.warmup=0", "method.member.free_bits=null")
    methods = build(config(*ENSEMBLE, *options)["method"], "method").methods
    shape = methods[0].model.shape
    x = torch.randint(256, (2, 3, *shape), dtype=torch.uint8) if len(shape) == 3 else torch.randn(2, 3, *shape)
    batches = Batch(x, torch.arange(6).unflatten(0, (2, 3)), 1).members()
    for method, batch in zip(methods, batches, strict=True):
        method.initialise(batch)
    one, other = sequential(methods, batches), Stacked(methods)(batches)
    torch.testing.assert_close(other.losses, one.losses, rtol=1e-4, atol=1e-3)
    for mine, theirs in zip(one.gradients, other.gradients, strict=True):
        sizes = [(a - b).norm() / (1e-3 + a.norm()) for a, b in zip(mine, theirs, strict=True)]
        assert max(sizes) < 1e-2


def test_a_seed_that_no_member_would_have_is_refused():
    with pytest.raises(UserError, match=r"method.member.seed=5 would have no effect.*seed=0"):
        build_components(config(*ENSEMBLE, *MEMBERS, "method.member.seed=5"))
