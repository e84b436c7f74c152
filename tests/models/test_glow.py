"""The flow: inverses and log-determinants against the autograd Jacobian, a density of mass one, initialisation once."""

import math

import pytest
import torch
from torch.func import jacrev

from oodgen.errors import UserError
from oodgen.models import flow_layers
from oodgen.models.flow_layers import ActNorm, Coupling, FlowSequential, Mixing, Split
from oodgen.models.glow import Glow
from oodgen.noise import ExampleNoise, RandomNoise

BPD = math.log(2)


def scrambled(module, seed=0, deviation=0.1):
    """Every parameter moved, those that start at zero too, at float64."""
    g = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for value in module.parameters():
            value.add_(deviation * torch.randn(value.shape, generator=g, dtype=torch.float64))
    return module


def glow(shape=(1, 4, 4), steps=2, levels=2, hidden=4, seed=0, **options):
    torch.manual_seed(seed)
    return Glow(shape, steps=steps, levels=levels, hidden=hidden, **options)


def images(count, shape, seed=0):
    return torch.randint(256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def slogdet(function, x):
    """log |det| of the Jacobian of a function of one example, for each example."""
    found = []
    for row in x:
        jacobian = jacrev(lambda value: function(value.unsqueeze(0))[0].flatten())(row)
        found.append(torch.linalg.slogdet(jacobian.reshape(row.numel(), row.numel())).logabsdet)
    return torch.stack(found)


# --- layers ---

LAYERS = {
    "actnorm": lambda: ActNorm(4),
    "mixing": lambda: Mixing(4),
    "affine": lambda: Coupling(4, 5, affine=True),
    "additive": lambda: Coupling(4, 5, affine=False),
    "chain": lambda: FlowSequential([ActNorm(4), Mixing(4), Coupling(4, 5, affine=True)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_inverted_and_knows_its_jacobian(name):
    torch.manual_seed(0)
    layer = scrambled(LAYERS[name](), deviation=0.3)
    x = torch.randn(3, 4, 2, 3, dtype=torch.float64)
    z, log_det = layer(x)
    assert not torch.allclose(z, x, atol=0.1)
    torch.testing.assert_close(layer.inverse(z), x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_det.expand(3), slogdet(lambda value: layer(value)[0], x))


def test_a_split_is_inverted_and_its_prior_is_a_log_determinant():
    torch.manual_seed(0)
    split = scrambled(Split(4), deviation=0.3)
    x = torch.randn(3, 4, 2, 3, dtype=torch.float64)
    kept, code, log_det = split(x)
    torch.testing.assert_close(split.inverse(kept, code), x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_det, slogdet(lambda value: torch.cat(split(value)[:2], 1), x))
    # the density of what left is N(mu, sigma^2) given what stayed
    mean, log_sigma = split.prior(kept).chunk(2, 1)
    expected = torch.distributions.Normal(mean, log_sigma.exp()).log_prob(x[:, 2:]).sum((1, 2, 3))
    base = torch.distributions.Normal(0, 1).log_prob(code).sum((1, 2, 3))
    torch.testing.assert_close(base + log_det, expected)


def test_a_mixing_starts_as_a_rotation_and_keeps_its_permutation():
    torch.manual_seed(1)
    layer = Mixing(6)
    x = torch.randn(2, 6, 3, 3)
    z, log_det = layer(x)
    torch.testing.assert_close(z.square().sum(1), x.square().sum(1))
    assert abs(log_det.item()) < 1e-4
    weight = torch.stack([layer(row.view(1, 6, 1, 1))[0].flatten() for row in torch.eye(6)], 1)
    lower, upper = layer.factors()
    torch.testing.assert_close(weight, layer.permutation @ lower @ upper)
    assert {"permutation", "sign"} <= set(layer.state_dict()) and "permutation" not in dict(layer.named_parameters())
    assert not torch.equal(layer.permutation, torch.eye(6))


def test_an_affine_coupling_starts_at_its_documented_scale_and_never_expands():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 2, 2)
    z, log_det = Coupling(4, 5, affine=True)(x)
    scale = torch.tensor(2.0).sigmoid()
    torch.testing.assert_close(z, torch.cat([x[:, :2], scale * x[:, 2:]], 1))
    torch.testing.assert_close(log_det, (8 * scale.log()).expand(2))
    wild = scrambled(Coupling(4, 5, affine=True), deviation=30.0)
    z, log_det = wild(x.double())
    assert z.isfinite().all() and log_det.isfinite().all() and (log_det <= 0).all()


# --- the whole ---


@pytest.mark.parametrize("learned_top", [True, False])
@pytest.mark.parametrize("coupling", ["affine", "additive"])
def test_the_whole_is_inverted_and_knows_its_jacobian(coupling, learned_top):
    model = scrambled(glow((2, 4, 4), coupling=coupling, learned_top=learned_top))
    y = torch.rand(3, 2, 4, 4, dtype=torch.float64) - 0.5
    codes, log_det = model.encode(y)
    assert [tuple(code.shape[1:]) for code in codes] == model.latents
    assert sum(math.prod(shape) for shape in model.latents) == 2 * 4 * 4
    torch.testing.assert_close(model.decode(codes), y, rtol=1e-5, atol=1e-5)
    whole = slogdet(lambda value: torch.cat([code.flatten(1) for code in model.encode(value)[0]], 1), y)
    torch.testing.assert_close(log_det, whole)
    bound = model(y, RandomNoise(), samples=2)
    base = torch.cat([code.flatten(1) for code in codes], 1)
    expected = torch.distributions.Normal(0, 1).log_prob(base).sum(1) + whole - 32 * math.log(256)
    torch.testing.assert_close(bound.elbo, expected.expand(2, 3))
    assert bound.log_ratios == () and torch.equal(bound.log_weights, bound.log_px)


def test_three_levels_at_float32_are_inverted():
    model = glow((3, 16, 16), steps=4, levels=3, hidden=16)
    y = model.observe(images(8, (3, 16, 16)), RandomNoise())
    model.initialise(y, RandomNoise())
    torch.testing.assert_close(model.decode(model.encode(y)[0]), y, rtol=1e-5, atol=1e-5)


def identity(shape, levels):
    """A Glow whose every layer but the first actnorm leaves its input as it is."""
    model = glow(shape, steps=1, levels=levels, coupling="additive", learned_top=False).double()
    for layer in model.modules():
        if isinstance(layer, Mixing):
            n = len(layer.sign)
            layer.permutation.copy_(torch.eye(n))
            layer.sign.fill_(1)
            for value in (layer.lower, layer.upper, layer.log_scale):
                value.data.zero_()
    return model


@pytest.mark.parametrize("levels", [1, 2])
def test_identity_layers_give_the_analytic_value(levels):
    shape, x, scale = (1, 4, 4), images(5, (1, 4, 4)), 3.0
    model = identity(shape, levels)
    first = next(layer for layer in model.modules() if isinstance(layer, ActNorm))
    first.log_scale.data.fill_(math.log(scale))
    noise = ExampleNoise(0, torch.arange(5))
    y = model.observe(x, noise).double()
    # y = (x + u) / 256 - 1/2 ~ N(0, 1/9), so the density of x + u is that of N(128, (256 / 3)^2)
    u = noise.uniform("x", (1, *x.shape), x.device)[0].double()
    expected = torch.distributions.Normal(128.0, 256 / scale).log_prob(x + u).sum((1, 2, 3))
    torch.testing.assert_close(model(y, noise).log_px[0], expected, rtol=1e-6, atol=1e-5)


def test_the_bound_of_a_uniform_density_is_eight_bits():
    """For a density near one on the cube, bits per dimension are log2 of 256 levels."""
    model = identity((1, 2, 2), 1)
    first = next(layer for layer in model.modules() if isinstance(layer, ActNorm))
    first.log_scale.data.fill_(0.5 * math.log(2 * math.pi))  # N(0, 1 / 2pi) has density one at 0
    log_px = model(torch.zeros(1, 1, 2, 2, dtype=torch.float64), RandomNoise()).log_px
    assert -log_px.item() / (4 * BPD) == pytest.approx(8)


def test_the_value_is_below_the_log_mass_of_the_image():
    """Brute force in two pixels' cells: the mass is an integral over the cell of the density of x + u."""
    model = identity((1, 2, 2), 1)
    first = next(layer for layer in model.modules() if isinstance(layer, ActNorm))
    first.log_scale.data.fill_(math.log(100.0))  # narrow, so that the density varies within a cell
    first.shift.data.fill_(-0.01)
    x = torch.tensor([[[[128, 131], [127, 130]]]], dtype=torch.uint8)
    ideal = torch.distributions.Normal(128 + 2.56, 2.56)
    mass = (ideal.cdf(x + 1.0) - ideal.cdf(x.double())).log().sum()
    n = 20_000
    y = model.observe(x.expand(n, -1, -1, -1), ExampleNoise(0, torch.arange(n))).double()
    values = model(y, RandomNoise()).log_px[0]
    error = values.exp().std() / n**0.5 / mass.exp()
    assert abs(values.logsumexp(0) - math.log(n) - mass) < 4 * error
    assert values.mean() + 4 * values.std() / n**0.5 < mass


@pytest.mark.parametrize("coupling", ["affine", "additive"])
def test_the_density_integrates_to_one(coupling):
    """Importance sampling from a Student's t of the model's own mean and covariance, within four standard errors."""
    model = scrambled(glow((1, 2, 2), steps=2, levels=1, coupling=coupling), deviation=0.3)
    torch.manual_seed(0)
    with torch.no_grad():
        draws = model.decode([torch.randn(5000, *shape, dtype=torch.float64) for shape in model.latents]).flatten(1)
        spread = 1.2 * torch.linalg.cholesky(draws.T.cov())
        t = torch.distributions.StudentT(torch.full((4,), 4.0, dtype=torch.float64))
        z = t.sample((200_000,))
        log_q = t.log_prob(z).sum(1) - spread.diagonal().log().sum()
        log_p = model((draws.mean(0) + z @ spread.T).view(-1, 1, 2, 2), RandomNoise()).log_px[0] + 4 * math.log(256)
        weights = (log_p - log_q).exp()
    error = weights.std().item() / len(weights) ** 0.5
    assert error < 0.005
    assert abs(weights.mean().item() - 1) < 4 * error


def test_an_additive_glow_has_one_log_determinant_for_all():
    # the split's prior aside, which is a density and no volume: at one level there is none
    model = scrambled(glow((1, 4, 4), levels=1, coupling="additive"))
    y = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    _, log_det = model.encode(y)
    torch.testing.assert_close(log_det, log_det[:1].expand(4))
    _, affine = scrambled(glow((1, 4, 4), levels=1)).encode(y)
    assert affine.std() > 1e-3


# --- data-dependent initialisation ---


def statistics(model, y):
    """Mean and deviation of each channel after each actnorm, those inside couplings too."""
    found = []

    def keep(layer, inputs, output):
        value = output[0] if isinstance(output, tuple) else output
        found.append((value.mean((0, 2, 3)), value.std((0, 2, 3), correction=0)))

    kinds = ActNorm | flow_layers.ActNormConv2d
    layers = [layer for layer in model.modules() if isinstance(layer, kinds)]
    handles = [layer.register_forward_hook(keep) for layer in layers]
    model(y, RandomNoise())
    for handle in handles:
        handle.remove()
    assert len(found) == len(layers)
    return [torch.cat(part) for part in zip(*found, strict=True)]


def far_from_standard(model, seed=0):
    return model.observe(images(32, model.shape, seed) // 4 + 150, ExampleNoise(seed, torch.arange(32)))


def test_initialisation_standardises_after_every_actnorm_and_only_once():
    model = glow((2, 8, 8), hidden=6)
    y = far_from_standard(model)
    mean, deviation = statistics(model, y)
    assert mean.abs().max() > 0.05 and (deviation - 1).abs().max() > 0.5
    model.initialise(y, RandomNoise())
    mean, deviation = statistics(model, y)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-4)
    torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=0, atol=1e-4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model(2 * y, RandomNoise())  # a pass changes nothing by itself
    model.initialise(2 * y + 1, RandomNoise())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_resumed_model_does_not_initialise_again(tmp_path):
    model = glow((2, 8, 8), hidden=6)
    y = far_from_standard(model)
    model.initialise(y, RandomNoise())
    torch.save(model.state_dict(), tmp_path / "weights")
    other = glow((2, 8, 8), hidden=6, seed=1)
    other.load_state_dict(torch.load(tmp_path / "weights", weights_only=True))
    expected = model(y, RandomNoise()).log_px
    assert torch.equal(other(y, RandomNoise()).log_px, expected)
    other.initialise(far_from_standard(other, 1) * 3, RandomNoise())
    assert torch.equal(other(y, RandomNoise()).log_px, expected)


def test_a_constant_channel_keeps_its_scale():
    model = glow((1, 4, 4))
    model.initialise(torch.full((8, 1, 4, 4), 0.25), RandomNoise())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert next(layer for layer in model.modules() if isinstance(layer, ActNorm)).log_scale.abs().max() == 0


# --- as a density ---


def test_every_parameter_gets_a_gradient():
    for options in ({}, {"coupling": "additive"}, {"learned_top": False}):
        model = scrambled(glow((2, 8, 8), hidden=6, **options))
        model(torch.rand(4, 2, 8, 8, dtype=torch.float64) - 0.5, RandomNoise()).log_px.mean().backward()
        for name, value in model.named_parameters():
            assert value.grad is not None and value.grad.isfinite().all() and value.grad.abs().max() > 1e-4, name


def test_images_are_observed_in_half_a_unit_about_zero_and_keep_their_level():
    model, x = glow(), images(6, (1, 4, 4))
    noise = ExampleNoise(0, torch.arange(6))
    y = model.observe(x, noise)
    assert y.dtype == torch.float32 and y.min() >= -0.5 and y.max() <= 0.5
    assert torch.equal(((y + 0.5) * 256).floor().to(torch.uint8), x)
    assert torch.equal(y, model.observe(x, noise))
    assert not torch.equal(y, model.observe(x, ExampleNoise(1, torch.arange(6))))


def test_generated_images_are_the_inverse_of_normal_codes():
    model = glow((3, 8, 8))
    model.initialise(far_from_standard(model), RandomNoise())
    noise = ExampleNoise(3, torch.arange(5))
    image = model.generate(5, noise)
    assert image.shape == (5, 3, 8, 8) and image.min() >= 0 and image.max() <= 1
    assert torch.equal(image[2:], model.generate(3, ExampleNoise(3, torch.arange(2, 5))))
    inside = (image > 0) & (image < 1)
    assert inside.float().mean() > 0.5
    codes, _ = model.encode((255 * image + 0.5) / 256 - 0.5)
    drawn = noise.normal("z1", (1, 5, *model.latents[0]), image.device)[0]
    whole = inside.flatten(1).all(1)
    assert whole.any()
    torch.testing.assert_close(codes[0][whole], drawn[whole], rtol=1e-3, atol=1e-3)
    image.sum().backward()


def test_under_bf16_the_density_stays_float32_and_near():
    model = glow((3, 8, 8), steps=4, hidden=16)
    y = far_from_standard(model)
    model.initialise(y, RandomNoise())
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, flow_layers.ZeroInitConv2d):
                layer.weight.normal_(std=0.02)
        exact = model.double()(y.double(), RandomNoise()).log_px
        model.float()
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(y, RandomNoise()).log_px
            codes, log_det = model.encode(y)
            back = model.decode(codes)
    assert rough.dtype == log_det.dtype == torch.float32 and exact.dtype == torch.float64
    assert (rough - exact).abs().max() / (192 * BPD) < 0.02
    # bf16 is inside the couplings alone, which the inverse evaluates at the same inputs
    torch.testing.assert_close(back, y, rtol=0, atol=2e-3)


def test_bin_is_that_of_a_mass_of_levels():
    assert glow().bin == 1 / 255


def test_a_size_that_does_not_divide_is_refused_with_one_that_does():
    with pytest.raises(UserError, match=r"set data\.size=\[32,32\] and model\.shape=\[1,32,32\]"):
        glow(shape=(1, 28, 28), levels=3)
    with pytest.raises(KeyError, match="linear"):
        glow(coupling="linear")
