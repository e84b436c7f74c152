"""Members are asked one by one, each with its own noise, and their evidence stacked, whatever the question."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from oodgen.data.preprocess import TestSet as Set
from oodgen.evaluation import evaluate
from oodgen.models.ensemble import Ensemble
from oodgen.models.glow import Glow
from oodgen.models.likelihoods import Bernoulli
from oodgen.models.vae import VAE
from oodgen.noise import ExampleNoise, MedianNoise, member_seed
from oodgen.probes.bounds import Bounds
from oodgen.probes.density import LogDensity
from oodgen.probes.members import Members
from oodgen.probes.probe import probe_grad_mode
from oodgen.probes.regret import Regret
from oodgen.training.device import Device

INDEX = torch.tensor([5, 2, 40, 7])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Ensemble([VAE((1, 8, 8), 3, [4], [2], 4, Bernoulli("soft")) for _ in range(3)]).eval()


@pytest.fixture(scope="module")
def x():
    return torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_the_evidence_of_a_member_is_that_of_asking_it_alone(model, x):
    probe = Bounds(samples=3, samples_k=1)
    found = Members(probe)(model, x, ExampleNoise(4, INDEX))
    assert {name: value.shape[0] for name, value in found.items()} == {"l": 3, "log_px": 3, "kl": 3, "iw": 3}
    for m, member in enumerate(model.members):
        alone = probe(member, x, ExampleNoise(4000 + m, INDEX))
        assert all(torch.equal(found[name][m], alone[name]) for name in alone)
    assert found["iw"].shape == (3, 4) and found["l"].shape == (3, 1, 4)


@torch.inference_mode()
def test_noise_is_each_members_own_and_the_firsts_that_of_a_single_model(model, x):
    same = Ensemble([model.members[0]] * 2)
    found = Members(Bounds())(same, x, ExampleNoise(0, INDEX))["iw"]
    assert (found[0] != found[1]).all()
    assert torch.equal(found[0], Bounds()(model.members[0], x, ExampleNoise(0, INDEX))["iw"])
    assert [member_seed(seed, i) for seed in (0, 3) for i in (1, 2)] == [0, 1, 3000, 3001]


@pytest.mark.parametrize(
    ("probe", "name"), [(LogDensity(2), "l"), (Bounds(2), "l"), (Regret(1, samples_bound=2), "before")]
)
def test_members_look_at_one_observation_of_an_example(x, probe, name):
    torch.manual_seed(0)
    if isinstance(probe, LogDensity):
        member = Glow((1, 8, 8), 1, 1, 4)
        member.initialise(member.observe(x, MedianNoise()), MedianNoise())
    else:
        member = VAE((1, 8, 8), 3, [4], [2], 4, Bernoulli("dynamic"))
        with torch.no_grad():  # a code that is all but certain, so that nothing else is drawn
            member.encoder.head.weight.zero_()
            member.encoder.head.bias.copy_(torch.tensor([0.0] * 3 + [-30.0] * 3))
    with probe_grad_mode(Members(probe), member):
        found = Members(probe)(Ensemble([member] * 3).eval(), x, ExampleNoise(4, INDEX))[name]
        one, other = (probe(member, x, ExampleNoise(seed, INDEX))[name] for seed in (4000, 4001))
    torch.testing.assert_close(found, one.expand_as(found), rtol=1e-5, atol=1e-4)
    assert (one - other).abs().max() > 1e-2


@dataclass(frozen=True)
class Distance:
    """From the mean of what was trained on, plus a little noise: the least that needs a reference."""

    fitted: dict | None = field(default=None, repr=False)

    def batch(self, model):
        return 3

    def see(self, model, x, noise):
        return model.scale * x.float().mean((1, 2, 3)) + noise.normal("d", (1, len(x)), x.device)[0]

    def fit(self, model, examples):
        seen = torch.cat([self.see(model, x, noise) + y for x, y, noise in examples])
        return replace(self, fitted={"mean": seen.mean()})

    def __call__(self, model, x, noise):
        return {"distance": self.see(model, x, noise) - self.fitted["mean"]}


@torch.inference_mode()
def test_a_probe_that_needs_a_reference_is_fitted_for_each_member(x):
    model, y = Ensemble([Critic(1.0), Critic(2.0), Critic(-1.0)]), torch.arange(4)
    model.alive[1] = False
    batches = [(x[part], y[part], ExampleNoise(4, INDEX[part])) for part in (slice(0, 3), slice(3, 4))]
    made = Members(Distance()).fit(model, iter(batches))
    found = made(model, x, ExampleNoise(4, INDEX))["distance"]
    for row, m in enumerate((0, 2)):
        noise = ExampleNoise(4000 + m, INDEX)
        alone = Distance().fit(model.members[m], [(x, y, noise)])
        torch.testing.assert_close(found[row], alone(model.members[m], x, noise)["distance"])
    assert made.fitted["mean"].shape == (2,) and repr(made) == repr(Members(Distance()))
    # as a detector puts it together again
    again = replace(Members(Distance()), fitted=made.fitted)
    assert torch.equal(again(model, x, ExampleNoise(4, INDEX))["distance"], found)
    assert Members(Bounds()).fit is None


@torch.inference_mode()
def test_a_dropped_member_is_not_asked(model, x):
    whole = Members(Bounds())(model, x, ExampleNoise(0, INDEX))
    fewer = Ensemble(list(model.members))
    fewer.alive[0] = False
    found = Members(Bounds())(fewer, x, ExampleNoise(0, INDEX))
    assert all(torch.equal(found[name], value[1:]) for name, value in whole.items())
    assert list(fewer.active_members()) == [2, 3]


class Critic(nn.Module):
    """No density: a shape and an answer."""

    def __init__(self, scale):
        super().__init__()
        self.shape, self.scale = (1, 8, 8), nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        return self.scale * x.float().mean((1, 2, 3))


@dataclass(frozen=True)
class Value:
    needs = Critic

    def batch(self, model):
        return 3

    def __call__(self, model, x, noise):
        return {"d": model(x)}


def test_any_probe_of_any_model(x, tmp_path):
    model = Ensemble([Critic(1.0), Critic(2.0)])
    assert model.shape == (1, 8, 8)
    evaluated = evaluate.EvaluatedModel(model, "last", tmp_path, tmp_path, Device("cpu", "32").resolved(), 0)
    found = evaluate.collect_evidence(evaluated, {"members": Members(Value())}, Set(x.numpy(), "tiny", "", ""))
    mean = x.float().mean((1, 2, 3))
    torch.testing.assert_close(found["members/d"], torch.stack([mean, 2 * mean]))
    (path,) = tmp_path.iterdir()
    assert torch.equal(load_file(path)["d"], found["members/d"])


def test_stored_evidence_is_named_by_the_inner_question_and_its_code(model, x, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate, "code_digest", lambda modules: asked.append(modules) or "")
    evaluated = evaluate.EvaluatedModel(model, "last", tmp_path, tmp_path, Device("cpu", "32").resolved(), 0)
    for probe in (Members(Bounds(samples=2)), Members(Bounds(samples=3)), Members(Bounds(samples=3, budget=7))):
        evaluate.collect_evidence(evaluated, {"members": probe}, Set(x.numpy(), "tiny", "", ""))
    assert len(list(tmp_path.iterdir())) == 2  # what only changes how it is computed names nothing
    assert all({"oodgen.probes.members", "oodgen.probes.bounds", "oodgen.models.vae"} <= modules for modules in asked)
