"""BIVA: its bounds against their definition, quadrature, what its variables reach, and reloading."""

import copy
import itertools
import math

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.distributions import Normal

from oodgen.methods.likelihood import FreeBits
from oodgen.models.biva import BIVA
from oodgen.models.density import Bound, Hierarchy
from oodgen.models.likelihoods import Bernoulli
from oodgen.noise import ExampleNoise, RandomNoise
from oodgen.runs.locations import config_dir

CPU = torch.device("cpu")
SPECS = [
    {"latent": 2, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
    {"latent": 1, "channels": 4, "kernel": 3, "blocks": 2, "stride": 1},
    {"latent": 3, "dense": True, "channels": 3, "kernel": 3, "blocks": 1, "stride": 2},
    {"latent": 2, "dense": True, "channels": 2, "kernel": 3, "blocks": 1, "stride": 1},
]
OPTIONS = list(itertools.product(["mean", "sample"], ["sample", "mode"]))


def network(depth):
    torch.manual_seed(depth)
    model = BIVA((1, 6, 5), SPECS[:depth], Bernoulli("soft"))
    model.initialise(torch.rand(64, 1, 6, 5), RandomNoise())
    # the random networks of a deep q lie far from p: calmer ones leave the sums a few hundred nats
    for head in [*model.bottom_up, *(q.head for q in model.top_down), *model.prior]:
        with torch.no_grad():
            head.layer.g.mul_(0.5)
    return model, torch.rand(3, 1, 6, 5), torch.tensor([11, 4, 70])


# --- the definition, one example and one sample at a time ---


def gaussian(params):
    """(1, 2D, ...) to a Gaussian over (1, 1, D, ...)."""
    mean, raw = params.unsqueeze(0).chunk(2, 2)
    return Normal(mean, ((1 + 2**raw).log2() + 1e-6).sqrt())


def descend(model, i, z, d):
    """d_i, given z_{i+1} and d_{i+1}."""
    return model.decoder[i](z[i + 1][0], d[i + 1] if i + 1 < model.depth else None)


def definition(model, y, noise, k, up, down):
    """L^{>k} of one example and one sample: up with z^b, from there down with q above k and p below."""

    def epsilon(site, like):
        return noise.normal(site, (1, 1, *like.shape[2:]), CPU)

    top, h, z_b, q_b = model.depth, {0: y.unsqueeze(0)}, {}, {}
    for i in range(1, top + 1):
        h[i] = model.encoder[i - 1](h[i - 1], z_b[i - 1][0] if i >= 2 else None)
        q_b[i] = gaussian(model.bottom_up[i - 1](h[i]))
        if i <= k and up == "mean":
            z_b[i] = q_b[i].mean
        else:
            z_b[i] = q_b[i].mean + q_b[i].stddev * epsilon(f"qb{i}", q_b[i].mean)
    z, d, ratios = {}, {}, []
    for i in range(top, 0, -1):
        if i == top:
            zeros = torch.zeros_like(z_b[top])
            p = Normal(zeros, torch.ones_like(zeros))
        else:
            d[i] = descend(model, i, z, d)
            p = gaussian(model.prior[i - 1](d[i]))
        if i <= k:  # both halves from p: what was inferred on the way up is forgotten
            z[i] = p.mean if down == "mode" else p.mean + p.stddev * epsilon(f"p{i}", p.mean)
            continue
        z[i], log_q = z_b[i], q_b[i].log_prob(z_b[i])
        if i < top:
            meeting = model.top_down[i - 1]
            q_t = gaussian(meeting.head(meeting.stage(h[i], d[i])))
            z_t = q_t.mean + q_t.stddev * epsilon(f"qt{i}", q_t.mean)
            z[i], log_q = torch.cat([z[i], z_t], 2), torch.cat([log_q, q_t.log_prob(z_t)], 2)
        ratios.insert(0, log_q - p.log_prob(z[i]))
    params = model.pixels(descend(model, 0, z, d)).unsqueeze(0)
    return model.likelihood(params).log_prob(y.unsqueeze(0)), ratios


def close(a, b):
    torch.testing.assert_close(a.log_px, b.log_px, rtol=1e-4, atol=1e-4)
    for mine, other in zip(a.log_ratios, b.log_ratios, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@torch.no_grad()
def test_bounds_equal_their_definition(depth):
    model, y, index = network(depth)
    assert isinstance(model, Hierarchy)
    ks, samples = [*range(depth, -1, -1)], [3 - k % 2 for k in range(depth + 1)]  # any order, any number of samples
    values = {}
    for up, down in OPTIONS:
        together = model.bounds(y, ExampleNoise(0, index), ks, samples, up, down)
        for k, s, bound in zip(ks, samples, together, strict=True):
            assert bound.log_px.shape == (s, 3) and bound.kls.shape == (depth - k, s, 3)
            (alone,) = model.bounds(y, ExampleNoise(0, index), [k], [s], up, down)
            close(bound, alone)
            for i, j in itertools.product(range(s), range(3)):
                slow = Bound(*definition(model, y[j], ExampleNoise(0, index[j : j + 1], i), k, up, down))
                ratios = tuple(r[i : i + 1, j : j + 1] for r in bound.log_ratios)
                close(Bound(bound.log_px[i : i + 1, j : j + 1], ratios), slow)
            values[up, down, k] = bound.elbo[:2]
    # the options are really options: where one has a say, it changes the bound
    for k in range(1, depth):
        assert (values["mean", "sample", k] - values["sample", "sample", k]).abs().min() > 1e-4
    for k in range(1, depth + 1):
        assert (values["mean", "sample", k] - values["mean", "mode", k]).abs().min() > 1e-4


class Common:
    """Gives a variable the same noise whether it is drawn from q, half by half, or as a pair from p."""

    def __init__(self, noise, top):
        self.noise, self.top = noise, top

    def normal(self, site, shape, device):
        kind, i = site.rstrip("0123456789"), int(site.lstrip("pqbt"))
        if kind != "p" or i == self.top:
            return self.noise.normal(f"qb{i}" if kind == "p" else site, shape, device)
        half = (*shape[:2], shape[2] // 2, *shape[3:])
        return torch.cat([self.noise.normal(f"{kind}{i}", half, device) for kind in ("qb", "qt")], 2)


@torch.no_grad()
def test_with_q_equal_to_p_all_levels_coincide():
    model, y, index = network(4)

    def constant(head, mean, raw):
        head.layer.g.zero_()
        head.layer.b.copy_(torch.tensor([mean, raw]).repeat_interleave(len(head.layer.b) // 2))

    for i in range(1, 4):
        for head in (model.bottom_up[i - 1], model.top_down[i - 1].head, model.prior[i - 1]):
            constant(head, 0.3 * i, 1.0 - i)
    constant(model.bottom_up[3], 0.0, 0.0)
    bounds = model.bounds(y, Common(ExampleNoise(0, index), 4), range(5), [5] * 5)
    for bound in bounds[1:]:
        torch.testing.assert_close(bound.log_px, bounds[0].log_px, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(bound.elbo, bounds[0].elbo, rtol=1e-4, atol=1e-3)
    assert bounds[0].layer_log_ratios.abs().max() < 1e-4
    assert (bounds[0].log_px - bounds[0].log_px[:1]).abs().max() > 1e-2  # though the pixels do depend on z


def test_level_k_leaves_both_halves_of_the_layers_below_to_the_prior():
    model, y, index = network(4)
    for k, bound in enumerate(model.bounds(y, ExampleNoise(0, index), range(5), [2] * 5)):
        model.zero_grad()
        bound.elbo.mean().backward(retain_graph=True)
        for i in range(1, 5):
            # of layers below k only the mean of the way up, and of no layer the scale, has a say
            mean, raw = model.bottom_up[i - 1].layer.b.grad.chunk(2) if k < 4 else (None, torch.zeros(1))
            assert raw.any() == (i > k), (k, i)
            assert mean is None or mean.any() or i > k
            if i < 4:
                grads = [v.grad for v in model.top_down[i - 1].parameters() if v.grad is not None]
                assert any(g.any() for g in grads) == (i > k), (k, i)


@torch.no_grad()
def test_every_variable_reaches_all_that_come_after_it():
    model, y, _ = network(4)
    z = [None, *(torch.randn(1, 1, *shape) for shape in model.latents[1:])]
    other = [None, *(torch.randn(1, 1, *shape) for shape in model.latents[1:])]

    def pixels(z):
        d = {}
        for i in range(3, -1, -1):
            d[i] = descend(model, i, z, d)
        return [model.prior[i - 1](d[i]) for i in (1, 2, 3)] + [model.pixels(d[0])]

    for changed in range(1, 5):
        mixed = [other[i] if i == changed else z[i] for i in range(5)]
        moved = [(a - b).abs().max() > 1e-4 for a, b in zip(pixels(z), pixels(mixed), strict=True)]
        assert moved == [i < changed for i in (1, 2, 3)] + [True]
    # on the way up the image reaches q(z_3^b | .) past z_1 and z_2
    h, x = [], (y[:1], y[1:2])
    for image in x:
        h.append(image)
        for i in (1, 2, 3):
            h[-1] = model.encoder[i - 1](h[-1], z[i - 1][0][:, : model.halves[i - 1][0]] if i >= 2 else None)
    assert (h[0] - h[1]).abs().max() > 1e-3


@torch.no_grad()
def test_no_bound_exceeds_log_p_and_the_weights_of_every_level_average_to_p():
    torch.manual_seed(4)
    layers = [{"latent": 1, "dense": True, "channels": 2, "blocks": 1}] * 2
    model = BIVA((1, 1, 2), layers, Bernoulli("soft"))
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2))).view(4, 1, 1, 2)
    model.initialise(images, RandomNoise())
    for head in (*model.bottom_up, model.top_down[0].head):  # as wide as the posterior, or the weights had no variance
        head.layer.g.mul_(0.3)
        head.layer.b[1] += 2.5
    model.prior[0].layer.g.mul_(0.5)
    # p(x) by midpoints over the standard noise of z_2, z_1^b and z_1^t, in float64
    double, e = copy.deepcopy(model).double(), torch.linspace(-5.5, 5.5, 56, dtype=torch.float64)
    axes = [axis.reshape(-1, 1) for axis in torch.meshgrid(e, e, e, indexing="ij")]
    d1 = double.decoder[1](axes[0], None)
    p1 = gaussian(double.prior[0](d1))
    z1 = p1.mean[0] + p1.stddev[0] * torch.cat(axes[1:], 1)
    p_x = double.likelihood(double.pixels(double.decoder[0](z1, d1)).unsqueeze(0))
    mass = (-sum(axis**2 for axis in axes) / 2).flatten().softmax(0)
    exact = torch.stack([(p_x.log_prob(image.expand(len(mass), 1, 1, 2))[0].exp() * mass).sum() for image in images])
    assert exact.sum().item() == pytest.approx(1, abs=1e-5) and exact.min() > 0.01
    n, noise = 40_000, ExampleNoise(0, torch.arange(4))
    below = model.bound_with_posteriors(images, [model.posteriors(images, noise, n)[0], None], noise, n)
    factorised = model.bound_with_posteriors(images, model.posteriors(images), noise, n)
    for up, others in (("mean", [below, factorised]), ("sample", [])):
        bounds = model.bounds(images, noise, [0, 1, 2], [n] * 3, up)
        for k, bound in enumerate([*bounds, *others]):
            weights = bound.log_weights.exp()
            assert weights.std(0).max() < 2, "heavy tails"
            assert ((weights.mean(0) - exact).abs() < 4 * weights.std(0) / n**0.5 + 1e-4).all(), k
            assert (bound.elbo.mean(0) < exact.log() + 4 * bound.elbo.std(0) / n**0.5).all(), k
            assert (exact.log() - bound.elbo.mean(0)).max() > 1e-3 and math.isfinite(bound.elbo.sum()), k


@torch.no_grad()
def test_a_saved_model_reloads_and_gives_the_same_bounds(tmp_path):
    model, y, index = network(4)
    torch.save(model.state_dict(), tmp_path / "biva.pt")
    again = BIVA((1, 6, 5), SPECS, Bernoulli("soft"))
    noise = ExampleNoise(0, index)
    before = again.bounds(y, noise, range(5), [2] * 5)
    again.load_state_dict(torch.load(tmp_path / "biva.pt", weights_only=True))
    for mine, other, first in zip(
        model.bounds(y, noise, range(5), [2] * 5), again.bounds(y, noise, range(5), [2] * 5), before, strict=True
    ):
        assert torch.equal(mine.elbo, other.elbo) and not torch.equal(mine.elbo, first.elbo)
    assert torch.equal(model.generate(3, noise), again.generate(3, noise))


@torch.no_grad()
def test_a_deep_model_initialised_on_four_images_stays_calm_on_others():
    torch.manual_seed(0)
    model = BIVA((1, 4, 4), [{"latent": 8, "dense": True, "channels": 4, "blocks": 1}] * 8, Bernoulli("soft"))
    model.initialise(torch.rand(4, 1, 4, 4), RandomNoise())
    bound = model(torch.rand(16, 1, 4, 4), RandomNoise(), 4)
    # of so few values some lie close together by chance, and the units scaled up by them would multiply
    assert bound.kls.mean((1, 2)).max() < 1e4 and bound.log_px.min() > -1e3


def test_free_bits_count_a_pair_as_one_layer():
    model, y, index = network(3)
    bound = model(y, ExampleNoise(0, index), 2)
    assert [tuple(ratio.shape[2:]) for ratio in bound.log_ratios] == [(4, 3, 3), (2, 3, 3), (3,)]
    b = Bound(torch.zeros(2, 3), tuple(torch.full_like(ratio, -1.0) for ratio in bound.log_ratios))
    torch.testing.assert_close(FreeBits(2.0, "layer")(b, 0), torch.full((3,), 2.0))
    # two nats for the channels of both halves, at each of nine pixels
    torch.testing.assert_close(FreeBits(2.0, "channel")(b, 0), torch.tensor([18.0, 18.0, 2.0]))


def test_the_natural_model_is_that_of_the_paper():
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("run", ["model=biva_natural"]).model
    for layer in config.layers:
        layer.channels = 2
    model = instantiate(config, _convert_="all")
    assert model.depth == 10 and model.shape == (3, 32, 32)
    assert [s.stride for s in model.specs] == [2, 1, 1, 2, 1, 2, 1, 1, 1, 1]
    assert [s.kernel for s in model.specs] == [5, *[3] * 9]
    assert [len(shape) for shape in model.halves[1:]] == [3] * 3 + [1] * 7
    assert model.sizes[0] == (32, 32) and model.sizes[-1] == (4, 4)
