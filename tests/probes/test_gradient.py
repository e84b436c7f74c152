"""Gradients, norms and Rao's statistic against one backward pass for each example, in float64 where it can be."""

import pytest
import torch

from oodgen.models.biva import BIVA
from oodgen.models.dense_vae import DenseVAE
from oodgen.models.ensemble import Ensemble
from oodgen.models.glow import Glow
from oodgen.models.hierarchy import BottomUpVAE
from oodgen.models.ladder import LadderVAE
from oodgen.models.likelihoods import Bernoulli, GaussianRows, LogisticMixture
from oodgen.models.priors import Flow, Mixture
from oodgen.models.vae import VAE
from oodgen.noise import ExampleNoise, MedianNoise, RandomNoise, member_seed
from oodgen.probes.gradient import Gradient, blocks
from oodgen.probes.members import Members
from oodgen.probes.probe import probe_grad_mode

INDEX = torch.tensor([5, 2, 40, 7, 8])
LAYERS = [
    {"latent": 2, "channels": 3, "stride": 2, "blocks": 1},
    {"latent": 3, "dense": True, "stride": 2, "blocks": 1},
]
KINDS = ["hierarchy", "ladder", "biva", "vae", "flow_prior", "mixture_prior", "glow", "rows"]


def network(kind):
    torch.manual_seed(0)
    vae = ((1, 8, 8), 3, [4], [2], 4, Bernoulli())
    model = {
        "hierarchy": lambda: BottomUpVAE((1, 8, 8), LAYERS, Bernoulli()),
        "ladder": lambda: LadderVAE((1, 8, 8), LAYERS, LogisticMixture(2)),
        "biva": lambda: BIVA((1, 8, 8), LAYERS, Bernoulli()),
        "vae": lambda: VAE(*vae, batch_norm=True),
        "flow_prior": lambda: VAE(*vae, prior=Flow(3, 2, (4,))),
        "mixture_prior": lambda: VAE(*vae, prior=Mixture(3, 2)),
        "glow": lambda: Glow((1, 8, 8), 1, 2, 4),
        "rows": lambda: DenseVAE((6,), 2, 3, 3, GaussianRows()),
    }[kind]()
    many = examples(kind, 64)
    model.initialise(model.observe(many, RandomNoise()), RandomNoise())
    return model.eval()


def examples(kind, count=5):
    g = torch.Generator().manual_seed(1)
    if kind == "rows":
        return torch.randn(count, 6, generator=g)
    return torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=g)


def ask(probe, model, x, index=INDEX, fit=True):
    with probe_grad_mode(probe, model):
        if fit:
            batches = [(x[:2], None, ExampleNoise(3, index[:2])), (x[2:], None, ExampleNoise(3, index[2:]))]
            probe = probe.fit(model, iter(batches))
        return probe, probe(model, x, ExampleNoise(3, index))


def by_hand(model, x, index, seed=3):
    """Per example: parameter name -> gradient."""
    found = []
    for n in range(len(x)):
        model.zero_grad()
        y = model.observe(x[[n]], ExampleNoise(seed, index[[n]]))
        model(y, MedianNoise()).elbo.sum().backward()
        found.append({name: p.grad.double().clone() for name, p in model.named_parameters() if p.requires_grad})
    model.zero_grad()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_norms_and_rao_by_hand(kind):
    model, x = network(kind), examples(kind)
    slow = by_hand(model, x, INDEX)
    probe, found = ask(Gradient(4), model, x)
    assert found["log_norm"].shape == (len(blocks(model)), 5) and found["rao"].shape == (5,)
    rao = torch.zeros(5).double()
    for row, names in enumerate(blocks(model).values()):
        g = torch.stack([torch.cat([one[name].flatten() for name in names]) for one in slow])
        expected = torch.tensor([sum(v * v for v in vector.tolist()) for vector in g]).log()
        torch.testing.assert_close(found["log_norm"][row], expected.float(), rtol=1e-3, atol=1e-3)
        mean = g[:4].square().mean(0)  # of the first four examples, in two batches of which the second is not used up
        fisher = (4 * mean + mean.mean()) / 5
        rao += (g.square() / fisher).sum(1) if mean.any() else 0
    torch.testing.assert_close(found["rao"], rao.float(), rtol=1e-2, atol=1e-3)
    # alone as in a batch; the fitted tensor makes the probe again; the model stays as it was
    for n in range(5):
        alone = ask(Gradient(4, probe.fitted), model, x[[n]], INDEX[[n]], fit=False)[1]
        torch.testing.assert_close(alone["log_norm"][:, 0], found["log_norm"][:, n], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(alone["rao"], found["rao"][[n]], rtol=1e-2, atol=1e-3)
    assert all(p.grad is None for p in model.parameters()) and repr(probe) == repr(Gradient(4))


def test_blocks_follow_the_modules():
    assert list(blocks(network("hierarchy"))) == ["posterior.0", "posterior.1", "prior.0", "decoder.0", "decoder.1"]
    assert list(blocks(network("vae"))) == ["encoder.features", "encoder.head", "decoder.lift", "decoder.features"]
    assert list(blocks(network("glow"))) == ["chains.0", "splits.0", "last.layers"]


def test_a_block_that_inliers_do_not_move_is_left_out():
    model, x = network("vae"), examples("vae")
    fisher = ask(Gradient(5), model, x)[0].fitted["fisher"]
    none = ask(Gradient(5, {"fisher": torch.zeros_like(fisher)}), model, x, fit=False)[1]
    assert (none["rao"] == 0).all()
    with pytest.raises(ValueError, match="must be fitted"):
        ask(Gradient(), model, x, fit=False)


def test_each_member_has_its_gradient_and_its_information():
    x, members = examples("vae"), [network("vae"), network("vae")]
    assert not isinstance(Ensemble(members), Gradient.needs)
    with torch.no_grad():
        members[1].encoder.head.weight.add_(0.3)
    probe, found = ask(Members(Gradient(5)), Ensemble(members).eval(), x)
    assert probe.fitted["fisher"].shape == (2, sum(p.numel() for p in members[0].parameters()))
    # one observation for both, that of the first member
    for row, member in enumerate(members):
        g = by_hand(member, x, INDEX, member_seed(3, 1))
        last = torch.stack([one["encoder.head.weight"].flatten() for one in g]).square().sum(1)
        bias = torch.stack([one["encoder.head.bias"] for one in g]).square().sum(1)
        torch.testing.assert_close(found["log_norm"][row, 1], (last + bias).log().float(), rtol=1e-3, atol=1e-3)
