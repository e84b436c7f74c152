"""Weight normalisation, its initialisation, sizes that mirror each other, and skips that act."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from oodgen.models.hierarchy import BottomUpVAE
from oodgen.models.likelihoods import Bernoulli
from oodgen.models.nets import (
    FromFeatureMap,
    ResidualBlock,
    Stage,
    ToFeatureMap,
    WeightNormConv2d,
    WeightNormLinear,
    data_dependent_init,
)
from oodgen.noise import ExampleNoise

LAYERS = [
    {"latent": 3, "channels": 6, "kernel": 5, "blocks": 2, "stride": 2},
    {"latent": 2, "channels": 5, "kernel": 3, "blocks": 1, "stride": 2},
    {"latent": 4, "dense": True, "channels": 4, "kernel": 3, "blocks": 3, "stride": 1},
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tiny(shape=(1, 9, 7), **options):
    return BottomUpVAE(shape, LAYERS, Bernoulli("soft"), **options)


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("stride_first", [True, False])
def test_initialisation_gives_every_channel_of_every_layer_mean_0_and_variance_1(skips, stride_first):
    model = tiny(skips=skips, stride_first=stride_first)
    y, noise = torch.rand(64, 1, 9, 7), ExampleNoise(0, torch.arange(64))
    model.initialise(y, noise)
    seen = {}

    def look(layer, inputs, output):
        seen[layer] = output

    layers = [layer for layer in model.modules() if isinstance(layer, WeightNormConv2d | WeightNormLinear)]
    for layer in layers:
        layer.register_forward_hook(look)
    with torch.no_grad():
        model(y, noise)
    assert len(seen) == len(layers) > 20
    for layer, output in seen.items():
        axes = [0, *range(2, output.ndim)]
        mean, variance = output.mean(axes), output.var(axes, correction=0)
        assert mean.abs().max() < 1e-3, layer
        assert (variance - 1).abs().max() < 1e-2, layer


def test_initialisation_leaves_no_hook_behind_and_its_own_pass_already_sees_the_result():
    layer, x = WeightNormConv2d(2, 3, 3), torch.randn(8, 2, 6, 6)
    outputs = []
    data_dependent_init(layer, lambda: outputs.append(layer(x)))
    torch.testing.assert_close(outputs[0], layer(x))
    torch.testing.assert_close(layer(2 * x) - layer.b.view(3, 1, 1), 2 * (layer(x) - layer.b.view(3, 1, 1)))


@pytest.mark.parametrize("batch", [torch.zeros(4, 1, 9, 7), torch.ones(4, 1, 9, 7), torch.rand(1, 1, 9, 7)])
def test_a_batch_without_variance_does_not_blow_the_weights_up(batch):
    model = tiny()
    noise = ExampleNoise(0, torch.arange(len(batch)))
    model.initialise(batch, noise)
    assert (
        max(layer.g.max().item() for layer in model.modules() if isinstance(layer, WeightNormConv2d | WeightNormLinear))
        < 100
    )
    assert model(torch.rand_like(batch), noise).elbo.isfinite().all()


def filters(layer):
    """g v / ||v||, written out filter by filter."""
    weight = torch.empty_like(layer.v)
    for o in range(len(layer.g)):
        own = (slice(None), o) if getattr(layer, "up", False) else (o,)
        weight[own] = layer.g[o] * layer.v[own] / layer.v[own].pow(2).sum().sqrt()
    return weight


@pytest.mark.parametrize("kind", ["same", "strided", "transposed", "dense"])
def test_weight_normalisation(kind):
    layer = {
        "same": WeightNormConv2d(3, 4, 5),
        "strided": WeightNormConv2d(3, 4, 3, 2),
        "transposed": WeightNormConv2d(3, 4, 3, 2, up=True),
        "dense": WeightNormLinear(3, 4),
    }[kind]
    with torch.no_grad():
        layer.g.normal_()
        layer.b.normal_()
        x = torch.randn(2, 3) if kind == "dense" else torch.randn(2, 3, 8, 8)
        y, weight = layer(x), filters(layer)
        if kind == "dense":
            expected = x @ weight.T + layer.b
        elif kind == "transposed":
            expected = F.conv_transpose2d(x, weight, layer.b, 2, 1, 1)
        else:
            expected = F.conv2d(x, weight, layer.b, layer.stride, layer.padding)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        layer.v.mul_(7.3)
        torch.testing.assert_close(layer(x), y, rtol=1e-4, atol=1e-5)


def test_a_filter_of_one_weight_has_no_direction_to_train():
    # its gradient would be rounding noise, which Adam turns into steps of full length
    for layer, trained in (
        (WeightNormConv2d(1, 4, 1), False),
        (WeightNormConv2d(1, 4, 3), True),
        (WeightNormLinear(1, 2), False),
        (WeightNormLinear(2, 2), True),
    ):
        assert layer.v.requires_grad == trained and layer.g.requires_grad
    skip = tiny().posterior[1].stage.skip
    assert skip is not None and not skip.layer.v.requires_grad


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [28, 14, 7, 4, 3, 1])
def test_the_transposed_convolution_mirrors_every_size(size, stride, kernel):
    x = torch.randn(1, 2, size, size + 1)
    small = WeightNormConv2d(2, 3, kernel, stride)(x)
    assert small.shape[2:] == (-(-size // stride), -(-(size + 1) // stride))
    large = WeightNormConv2d(3, 2, kernel, stride, up=True)(small, (size, size + 1))
    assert large.shape == x.shape


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("stride_first", [True, False])
def test_stages_go_down_28_14_7_4_and_back(blocks, stride_first):
    sizes = [28, 14, 7, 4]
    x = torch.randn(2, 1, 28, 28)
    for big, small in itertools.pairwise(sizes):
        down = Stage(x.shape[1:], None, 4, 3, blocks, 2, stride_first, (big, big), (small, small), False)
        x = down(x)
        assert x.shape == (2, 4, small, small)
    for big, small in reversed(list(itertools.pairwise(sizes))):
        up = Stage(x.shape[1:], None, 4, 3, blocks, 2, stride_first, (small, small), (big, big), True)
        x = up(x)
        assert x.shape == (2, 4, big, big)


def work(stage, x):
    """Sizes on which the residual blocks of a stage work."""
    seen = []
    for block in stage.blocks:
        block.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].shape[2]))
    stage(x)
    return seen


def test_where_a_stage_changes_size():
    def make(stride_first, up):
        ends = ((4, 4), (8, 8)) if up else ((8, 8), (4, 4))
        return Stage((2, *ends[0]), None, 3, 3, 3, 2, stride_first, *ends, up)

    small, large = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 8, 8)
    assert work(make(False, False), large) == [8, 8, 8]  # the paper: in the last block
    assert work(make(True, False), large) == [8, 4, 4]
    assert work(make(False, True), small) == [4, 8, 8]  # mirrored
    assert work(make(True, True), small) == [4, 4, 4]


@pytest.mark.parametrize(("stride", "up"), [(1, False), (1, True), (2, False), (2, True)])
def test_residual_path(stride, up):
    # with its last convolution at zero a block is its residual path alone
    block, x = ResidualBlock(3, 3, stride, up), torch.randn(2, 3, 5, 6)
    with torch.no_grad():
        block.second.g.zero_()
    size = (9, 12) if up and stride == 2 else (5, 6)
    y = block(x, size)
    if stride == 1:
        assert torch.equal(y, x)
    elif up:
        assert y.shape[2:] == size and torch.equal(y[..., ::2, ::2], x)
    else:
        torch.testing.assert_close(y[:, :, 0, 0], x[:, :, :2, :2].mean((2, 3)))
        # the ragged edge averages what is there
        torch.testing.assert_close(y[:, :, 2, 0], x[:, :, 4, :2].mean(2))


@pytest.mark.parametrize("skips", [True, False])
def test_skips_act_where_they_are_and_only_there(skips):
    model = tiny(skips=skips)
    y, noise = torch.rand(8, 1, 9, 7), ExampleNoise(0, torch.arange(8))
    model.initialise(y, noise)
    z = [y, *(torch.randn(8, *shape) for shape in model.latents[1:])]
    z = [value.unsqueeze(0).requires_grad_() for value in z]
    arrows = {
        "q(z2|z1,x)": (model.posterior[1](z[1], z[0]).mean, z[0]),
        "q(z3|z2,z1)": (model.posterior[2](z[2], z[1]).mean, z[1]),
        "p(z1|z2,z3)": (model.prior[0](z[2], z[3]).mean, z[3]),
        "p(x|z1,z2)": (model.decoder[1](model.decoder[0](z[1][0], z[2][0])), z[2]),
    }
    for name, (output, beyond) in arrows.items():
        (gradient,) = torch.autograd.grad(output.square().sum(), beyond, allow_unused=True)
        assert (gradient is not None and gradient.abs().max() > 1e-3) == skips, name


@pytest.mark.parametrize("shape", [(1, 9, 7), (1, 2, 28), (3, 1, 5)])
def test_shapes_that_are_not_square(shape):
    model = tiny(shape)
    y = torch.rand(4, *shape)
    noise = ExampleNoise(0, torch.arange(4))
    model.initialise(y, noise)
    assert model(y, noise).elbo.shape == (1, 4)
    assert model.generate(4, noise).shape == (4, *shape)


def test_lift_resizes_maps_by_averaging_and_repeating():
    def lifted(z, size):
        lift = ToFeatureMap(z.shape[1:], 1, size, kernel=1)
        with torch.no_grad():
            lift.layer.v.fill_(1)
        return lift(z)

    z = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(lifted(z, (2, 2)), F.avg_pool2d(z, 2))
    torch.testing.assert_close(lifted(z, (4, 4)), z)
    torch.testing.assert_close(lifted(z, (8, 8)), z.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert FromFeatureMap(3, (4, 4), (5,), 2)(torch.randn(2, 3, 4, 4)).shape == (2, 10)


def test_channels_last_changes_nothing_but_the_layout():
    model, noise = tiny(), ExampleNoise(0, torch.arange(5))
    y = torch.rand(5, 1, 9, 7)
    model.initialise(y, noise)
    expected = model(y, noise, 2)
    model.to(memory_format=torch.channels_last)
    found = model(y.contiguous(memory_format=torch.channels_last), noise, 2)
    torch.testing.assert_close(found.elbo, expected.elbo, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.kls, expected.kls, rtol=1e-4, atol=1e-4)
