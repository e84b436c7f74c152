"""The objective of training: floors, warm-up, gradients of every parameter, and the guard against NaN."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from oodgen.data.resident import Batch, Examples, TrainLoader
from oodgen.errors import Diverged, UserError
from oodgen.methods.likelihood import FreeBits, MaximumLikelihood
from oodgen.models.density import Bound, Density
from oodgen.models.likelihoods import Bernoulli
from oodgen.models.priors import Flow, Mixture
from oodgen.models.vae import VAE
from oodgen.runs.locations import config_dir

CPU = torch.device("cpu")
# critics and classifiers are no densities
NAMES = sorted(path.stem for path in (config_dir() / "model").glob("*.yaml"))
MODELS = [name for name in NAMES if not name.startswith(("wgan", "classifier", "vib"))]
# a hierarchy with skip connections and without them; BIVA cannot be without, other models have none
CASES = [*((name, None) for name in MODELS), ("hvae_grey", False), ("lvae_natural", False)]
sgd = partial(torch.optim.SGD, lr=0.0)


@pytest.fixture
def model_config(composed):
    return lambda name, **changes: OmegaConf.merge(composed(f"model={name}").model, changes)


def attach(method, batches_per_epoch=1):
    """As much of a trainer as the loss looks at."""
    method._trainer = SimpleNamespace(num_training_batches=batches_per_epoch)
    return method


def batch(shape, n=2, step=1):
    draw = torch.Generator().manual_seed(step)
    x = torch.randint(256, (n, *shape), dtype=torch.uint8, generator=draw)
    if len(shape) == 1:
        x = torch.randn(n, *shape, generator=draw)
    return Batch(x, torch.arange(n), step)


@pytest.mark.parametrize(("name", "skips"), CASES)
def test_every_parameter_of_every_model_gets_a_gradient(model_config, name, skips):
    config = model_config(name)
    if skips is not None:
        config.skips = skips
    for layer in config.get("layers", []):
        layer.channels = min(layer.channels, 12)  # the structure is the config's, only narrower
    if name.startswith("glow"):
        config.hidden = min(config.hidden, 12)
    torch.manual_seed(0)
    method = attach(MaximumLikelihood(instantiate(config, _convert_="all"), sgd))
    method.initialise(batch(method.model.shape, 4))
    for value in method.model.parameters():
        if name.startswith("glow") and not value.any():  # a layer that starts at zero would hide those before it
            nn.init.normal_(value, std=0.01)
    method.training_step(batch(method.model.shape), 0).backward()
    for parameter, value in method.model.named_parameters():
        if value.requires_grad:
            assert value.grad is not None and value.grad.isfinite().all(), parameter
            # not merely rounding noise
            assert value.grad.abs().max() > 1e-4, parameter
        else:
            assert value[0].numel() == 1, f"{parameter} is frozen though it has a direction"
    connected = any("skip" in parameter for parameter, _ in method.model.named_parameters())
    assert connected == (bool(config.get("skips")) or name.startswith("biva"))


# --- free bits and warm-up ---


def bound(*shapes, fill=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    ratios = [
        torch.randn(2, 3, *shape, generator=g) + 0.1 if fill is None else torch.full((2, 3, *shape), fill)
        for shape in shapes
    ]
    return Bound(torch.zeros(2, 3), tuple(ratios))


GREY = ((8, 14, 14), (16,), (8,))


@pytest.mark.parametrize(("per", "floors"), [("channel", (392, 2, 2)), ("layer", (2, 2, 2))])
def test_effective_floors_of_the_grey_model(model_config, per, floors):
    assert [tuple(s) for s in instantiate(model_config("hvae_grey"), _convert_="all").latents[1:]] == list(GREY)
    found = FreeBits(2.0, per)(bound(*GREY, fill=-50.0), 0)
    torch.testing.assert_close(found, torch.tensor(floors, dtype=torch.float32))


def test_free_bits_by_hand():
    ratio = torch.tensor([[[1.0, -3.0], [0.2, 4.0]], [[0.0, 0.5], [2.0, -1.0]]])  # (S, B, D) = (2, 2, 2)
    small = torch.tensor([[[0.1, 0.2], [0.0, 0.3]], [[0.1, 0.1], [0.1, 0.1]]])
    b = Bound(torch.zeros(2, 2), (ratio, small))
    # sums over elements 1-3, 0.2+4, 0+0.5, 2-1: mean 0.925; 0.3, 0.3, 0.2, 0.2: mean 0.25
    torch.testing.assert_close(FreeBits(0.6, "layer")(b, 0), torch.tensor([0.925, 0.6]))
    # floor 0.3 for each element: 1+.3, .3+4, .3+.5, 2+.3: mean 2.175
    torch.testing.assert_close(FreeBits(0.6, "channel")(b, 0), torch.tensor([2.175, 0.6]))


def test_a_map_shares_its_budget_among_channels_at_every_pixel():
    ratio = torch.zeros(1, 1, 4, 3, 5)
    ratio[0, 0, 0, 0, 0] = 7.0
    found = FreeBits(2.0, "channel")(Bound(torch.zeros(1, 1), (ratio,)), 0)
    assert found.item() == pytest.approx(7 + (4 * 15 - 1) * 2 / 4)


def test_floors_stop_the_gradient_below_and_nothing_above():
    for per in ("layer", "channel"):
        for value, expected in ((0.01, 0.0), (5.0, 1.0)):
            ratio = torch.full((1, 1, 4), value, requires_grad=True)
            FreeBits(2.0, per)(Bound(torch.zeros(1, 1), (ratio,)), 0).sum().backward()
            torch.testing.assert_close(ratio.grad, torch.full((1, 1, 4), expected))


def test_schedule_of_free_bits():
    annealed = FreeBits(2.0, hold=200, anneal=200)
    assert [annealed.at(e) for e in (0, 100, 200, 250, 300, 400, 1000)] == [2, 2, 2, 1.5, 1, 0, 0]
    assert [FreeBits(2.0, hold=3, anneal=None).at(e) for e in (0, 3, 1e6)] == [2, 2, 2]
    assert [FreeBits(2.0, hold=3, anneal=0).at(e) for e in (3, 3.01)] == [2, 0]


def test_annealed_away_the_layer_floor_leaves_the_bound_itself():
    # below the top a layer's estimate may be negative: a floor at 0 would change the objective
    b = bound(*GREY, fill=-0.01)
    torch.testing.assert_close(FreeBits(2.0, hold=1, anneal=1)(b, 5), b.kls.mean((1, 2)))
    torch.testing.assert_close(FreeBits(0.0)(b, 0), b.kls.mean((1, 2)))


def test_free_bits_of_nothing_there_is_are_refused():
    with pytest.raises(UserError, match="per='pixel'"):
        FreeBits(per="pixel")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": "exponential"}, "decay='exponential' is not one of"),
        ({"objective": "waic"}, "objective='waic' is not one of: elbo, iwae"),
        ({"objective": "iwae", "free_bits": FreeBits()}, "free_bits needs a KL term"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        MaximumLikelihood(Stub(), sgd, **options)


class Stub(Density):
    """log p = -(w - 1)^2 - 10, KLs of 3 and 5 nats, until told otherwise."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(2.0))
        self.calls, self.poison = 0, {}

    def observe(self, x, noise):
        return x.float()

    def forward(self, y, noise, samples=1):
        value = {"log_px": -10 - (self.w - 1) ** 2, "z1": 3 + 0 * self.w, "z2": 5 + 0 * self.w}
        for name in self.poison.get(self.calls, ()):
            value[name] = value[name] * torch.nan
        self.calls += 1
        ones = torch.ones(samples, len(y))
        return Bound(value["log_px"] * ones, tuple((value[z] * ones).unsqueeze(2) for z in ("z1", "z2")))

    def generate(self, count, noise):
        raise NotImplementedError


@pytest.mark.parametrize(("step", "beta"), [(1, 1 / 40), (10, 0.25), (40, 1.0), (99, 1.0)])
def test_warm_up_counts_fractions_of_epochs(step, beta):
    method = attach(MaximumLikelihood(Stub(), sgd, warmup=4), 10)
    assert method.training_step(batch((1, 2, 2), step=step), 0).item() == pytest.approx(beta * 8 + 11)


def test_floors_and_warm_up_together():
    method = attach(MaximumLikelihood(Stub(), sgd, warmup=4, free_bits=FreeBits(4.0, hold=2, anneal=2)), 10)
    for step, loss in ((1, (4 + 5) / 40 + 11), (20 + 1, 21 / 40 * (3.8 + 5) + 11), (99, 8 + 11)):
        assert method.training_step(batch((1, 2, 2), step=step), 0).item() == pytest.approx(loss)


# --- objectives of several samples ---


PRIORS = {"standard": lambda: None, "mixture": lambda: Mixture(3, 4), "flow": lambda: Flow(3, 2, (8,))}


@pytest.fixture(params=PRIORS)
def sampled(request):
    """A VAE, a batch, and log p(x|z_s), log q/p and the KL of S = 16 samples as the loss of that batch draws them."""
    torch.manual_seed(0)
    model = VAE((1, 8, 8), 3, [4], [2], 4, Bernoulli("soft"), prior=PRIORS[request.param]())
    nn.init.normal_(model.encoder.head.weight, std=0.3)
    given = batch((1, 8, 8), 5)
    y, q = given.x / 255, model.encoder(given.x / 255)
    MaximumLikelihood(model, sgd).noise(given)
    z = q.mean + q.stddev * torch.randn(16, 5, 3)
    p = model.prior()
    prior = p.log_prob(z) if request.param != "standard" else p.log_prob(z).sum(2)
    ratio = q.log_prob(z).sum(2) - prior
    closed = (q.mean**2 + q.variance - 1 - q.variance.log()).sum(1).expand(16, 5) / 2
    kl = closed if request.param == "standard" else ratio
    return model, given, model.decoder(z).log_prob(y), ratio, kl


def losses(model, given, samples=16, **options):
    method = attach(MaximumLikelihood(model, sgd, samples=samples, **options))
    return method.loss(given, method.noise(given))


@pytest.mark.parametrize("beta", [1.0, 0.1, 0.0])
def test_the_mean_of_16_elbos_is_distortion_plus_beta_times_rate(sampled, beta):
    model, given, log_px, _, kl = sampled
    loss, terms = losses(model, given, beta=beta)
    torch.testing.assert_close(loss, -(log_px - beta * kl).mean())
    torch.testing.assert_close(terms["bound"], (log_px - kl).mean())
    torch.testing.assert_close(terms["kl_1"], kl.mean())


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_iwae_is_the_logarithm_of_the_mean_weight(sampled, beta):
    model, given, log_px, ratio, _ = sampled
    loss, _ = losses(model, given, objective="iwae", beta=beta)
    weights = (log_px - beta * ratio).double()
    top = weights.max(0).values
    by_hand = top + (weights - top).exp().mean(0).log()
    assert loss.item() == pytest.approx(-by_hand.mean().item(), rel=1e-5)
    # above the mean of the same weights, by Jensen, and below the largest
    assert -loss.item() > weights.mean().item() + 1e-3
    assert -loss.item() < weights.max(0).values.mean().item()


def test_iwae_of_one_sample_is_the_sampled_elbo(sampled):
    model, given, *_ = sampled
    method = attach(MaximumLikelihood(model, sgd))
    bound = model(model.observe(given.x, None), method.noise(given))
    torch.testing.assert_close(losses(model, given, 1, objective="iwae")[0], -bound.log_weights.mean())


def test_warm_up_ends_at_beta():
    for step, beta in ((10, 0.1), (40, 0.4), (99, 0.4)):
        method = attach(MaximumLikelihood(Stub(), sgd, warmup=4, beta=0.4), 10)
        assert method.training_step(batch((1, 2, 2), step=step), 0).item() == pytest.approx(beta * 8 + 11)


def test_both_objectives_reach_every_parameter(sampled):
    model, given, *_ = sampled
    for objective in ("elbo", "iwae"):
        model.zero_grad()
        losses(model, given, objective=objective)[0].backward()
        for name, value in model.named_parameters():
            assert value.grad.isfinite().all() and value.grad.abs().max() > 1e-5, (objective, name)


def test_the_loss_of_a_step_depends_on_seed_and_step_alone(model_config):
    torch.manual_seed(0)
    model = instantiate(model_config("hvae_tiny"), _convert_="all")
    method = attach(MaximumLikelihood(model, sgd, seed=3))
    x = batch(model.shape).x

    def loss(step, seed=3):
        method.seed = seed
        return method.training_step(Batch(x, torch.arange(2), step), 0).item()

    a = loss(7)
    torch.rand(11)
    loss(8)
    assert loss(7) == a
    assert len({a, loss(8), loss(7, 4), loss(7 + 2**32)}) == 4


def test_validation_is_the_plain_bound_with_the_same_noise_every_time(model_config, monkeypatch):
    torch.manual_seed(0)
    model = instantiate(model_config("hvae_tiny"), _convert_="all")
    method = attach(MaximumLikelihood(model, sgd, warmup=100, free_bits=FreeBits(1e6, anneal=None)))
    method.initialise(batch(model.shape, 16))
    logged = []
    monkeypatch.setattr(
        method, "log_dict", lambda numbers, **_: logged.append({k: v.item() for k, v in numbers.items()})
    )
    with torch.no_grad():
        for seed in (1, 2):
            torch.manual_seed(seed)
            method.validation_step(batch(model.shape, 5), 0)
    assert logged[0] == logged[1]
    first = logged[0]
    assert first["val/bound"] == pytest.approx(
        first["val/log_px"] - sum(first[f"val/kl_{i}"] for i in (1, 2, 3)), rel=1e-5
    )


def test_initialisation_is_the_models_own_on_the_first_batch(model_config):
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        model = instantiate(model_config("hvae_tiny"), _convert_="all")
        torch.rand(len(models))  # what was drawn before has no say
        MaximumLikelihood(model, sgd, seed=1).initialise(batch(model.shape, 8))
        models.append(model)
    untouched = nn.Module.state_dict(instantiate(model_config("hvae_tiny"), _convert_="all"))
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name])
    assert not torch.equal(models[0].state_dict()["posterior.0.head.layer.g"], untouched["posterior.0.head.layer.g"])


# --- the guard ---


def fit(method, steps=6):
    x = np.zeros((8, 1, 2, 2), np.uint8)
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(method, TrainLoader(Examples(x, CPU, 10**9), 2, 0))
    return trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("poison", "named"),
    [
        (["z2"], "the KL of layer z2"),
        (["z1"], "the KL of layer z1"),
        (["log_px"], r"log p\(x\|z\)"),
        (["log_px", "z1", "z2"], r"log p\(x\|z\), the KL of layer z1, the KL of layer z2"),
    ],
)
def test_a_bound_that_is_not_finite_stops_training_and_names_step_and_layer(poison, named):
    model = Stub()
    model.poison = {3: poison}
    with pytest.raises(Diverged, match=rf"^the bound is not finite at step 3, in {named}$"):
        fit(MaximumLikelihood(model, partial(torch.optim.SGD, lr=0.1)))
    assert model.calls == 4 and model.w.isfinite()


@pytest.mark.filterwarnings("ignore")
def test_a_gradient_that_is_not_finite_stops_training_before_it_touches_the_weights():
    model = Stub()
    model.register_parameter("innocent", nn.Parameter(torch.zeros(3)))
    model.w.register_hook(lambda grad: grad * torch.nan if model.calls == 2 else grad)
    with pytest.raises(Diverged, match=r"^the gradient is not finite at step 1, in w$"):
        fit(MaximumLikelihood(model, partial(torch.optim.SGD, lr=0.1)))
    assert model.w.item() == pytest.approx(2 - 0.1 * 2)  # one good step, and no more


@pytest.mark.filterwarnings("ignore")
def test_a_gradient_whose_norm_overflows_is_named_too():
    method = MaximumLikelihood(Stub(), sgd)
    method.model.register_parameter("v", nn.Parameter(torch.tensor(0.0)))
    for parameter in method.model.parameters():
        parameter.grad = torch.tensor(3e38)
    with pytest.raises(Diverged, match="in their sum of squares"):
        method.on_before_optimizer_step(None)


@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    method = MaximumLikelihood(Stub(), sgd)
    trainer = fit(method, 2)
    trainer.save_checkpoint(tmp_path / "good.ckpt")
    with torch.no_grad():
        method.model.w.fill_(torch.inf)
    with pytest.raises(Diverged, match=r"the weights are not finite at step 2, in model\.w"):
        trainer.save_checkpoint(tmp_path / "bad.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["good.ckpt"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("decay", "half"), [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_decay_of_the_learning_rate(decay, half):
    rates = []

    class Watch(MaximumLikelihood):
        def on_train_batch_end(self, *args):
            rates.append(self.optimizers().param_groups[0]["lr"])

    fit(Watch(Stub(), partial(torch.optim.SGD, lr=0.1), decay=decay), 8)
    assert rates[3] == pytest.approx(0.1 * half, rel=1e-5)
    assert rates[7] == pytest.approx(0.1 if decay == "constant" else 0, abs=1e-6)


def test_training_finds_the_maximum_of_the_bound():
    model = Stub()
    fit(MaximumLikelihood(model, partial(torch.optim.SGD, lr=0.4)), 20)
    assert model.w.item() == pytest.approx(1, abs=1e-4)
