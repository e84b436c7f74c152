"""Generator and critic: sizes, scales, and values that do not depend on company or precision."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from oodgen.errors import UserError
from oodgen.models.critic import Critic
from oodgen.models.glow import Glow
from oodgen.models.wgan import WGAN
from oodgen.noise import ExampleNoise, RandomNoise
from oodgen.runs.locations import config_dir


def built(name):
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("run", [f"model={name}"]).model
    torch.manual_seed(0)
    return instantiate(config, _convert_="all")


def tiny(shape=(1, 8, 8), latent=3, channels=4):
    torch.manual_seed(0)
    return WGAN(shape, latent, channels)


@pytest.mark.parametrize(("name", "shape", "filter"), [("wgan_grey", (1, 28, 28), 7), ("wgan_colour", (3, 32, 32), 8)])
def test_the_papers_networks(name, shape, filter):
    model = built(name)
    convolutions = [layer for layer in model.critic.modules() if isinstance(layer, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in convolutions] == [
        *((32, 5, 1), (32, 5, 2), (64, 5, 1), (64, 5, 2), (512, filter, 1))
    ]
    assert [layer.out_features for layer in model.critic.modules() if isinstance(layer, nn.Linear)] == [128, 1]
    up = [layer for layer in model.generator.modules() if isinstance(layer, nn.ConvTranspose2d | nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in up] == [
        *((64, filter, 1), (64, 5, 1), (64, 5, 2), (32, 5, 1), (32, 5, 2), (32, 5, 1), (shape[0], 5, 1))
    ]
    made = model.generate(2, RandomNoise())
    assert made.shape == (2, *shape) and made.min() > 0 and made.max() < 1
    assert model.value(made).shape == (2,)
    value = model.value(made).sum()
    value.backward()  # through the generator too
    for parameter, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any(), parameter


def test_it_is_a_critic_and_a_density_is_none():
    assert isinstance(tiny(), Critic)
    assert not isinstance(Glow((1, 4, 4), 1, 1, 2), Critic)


def test_images_are_observed_on_the_scale_on_which_they_are_generated():
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    assert torch.equal(tiny().observe(x, RandomNoise()), x / 255)
    assert tiny().observe(x, RandomNoise()).flatten().tolist() == pytest.approx([0, 0.2, 1])


def test_the_critic_sees_black_and_white_as_minus_and_plus_one():
    model, seen = tiny(), []
    model.critic[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.value(torch.tensor([0.0, 0.5, 1.0]).repeat_interleave(64).view(3, 1, 8, 8))
    assert seen[0][:, 0, 0, 0].tolist() == [-1, 0, 1]


def test_plausibility_is_the_value_and_has_its_gradient():
    model, noise = tiny(), ExampleNoise(0, torch.arange(3))
    y = torch.rand(3, 1, 8, 8, requires_grad=True)
    assert torch.equal(model.plausibility(y, noise), model.value(y))
    (gradient,) = torch.autograd.grad(model.plausibility(y, noise).sum(), y)
    with torch.no_grad():
        moved = model.plausibility(y + 0.01 * gradient.sign(), noise)
    assert (moved > model.value(y)).all()


def test_samples_are_a_function_of_the_noise():
    model = tiny()
    noise = ExampleNoise(3, torch.arange(4))
    made = model.generate(4, noise)
    assert torch.equal(made, model.generate(4, noise))
    torch.testing.assert_close(made[1:3], model.generate(2, ExampleNoise(3, torch.tensor([1, 2]))))
    assert not torch.equal(made, model.generate(4, ExampleNoise(4, torch.arange(4))))


def test_bf16_leaves_no_ties():
    model, y = tiny(), torch.rand(200, 1, 8, 8)
    nn.init.constant_(model.critic[1][1].bias, 8.0)  # where bf16 steps by 1/16
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        value, made = model.value(y), model.generate(20, RandomNoise())
    assert value.dtype == made.dtype == torch.float32
    assert len(value.unique()) > 190 and len(value.bfloat16().unique()) < 10
    torch.testing.assert_close(value, model.value(y), rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": (1, 30, 28)}, r"30 x 28 pixels are not divisible by 4; .*size=\[32,28\] and model.shape=\[1,32,"),
        ({"shape": (30,)}, r"shape=\[30\]"),
    ],
)
def test_wrong_options_are_one_line(options, words):
    with pytest.raises(UserError, match=words) as error:
        tiny(**options)
    assert "\n" not in str(error.value)
