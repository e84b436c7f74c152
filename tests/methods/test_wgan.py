"""The losses of critic and generator written out, the order of their turns, and what is refused."""

from functools import partial

import pytest
import torch

from oodgen.data.resident import Batch
from oodgen.errors import UserError
from oodgen.methods.likelihood import MaximumLikelihood
from oodgen.methods.wgan import Turns, WassersteinGAN
from oodgen.models.likelihoods import Bernoulli
from oodgen.models.vae import VAE
from oodgen.models.wgan import WGAN
from oodgen.noise import RandomNoise

SIZE = 6
sgd = partial(torch.optim.SGD, lr=0.0)


def tiny(channels=4):
    torch.manual_seed(0)
    return WGAN((1, 4, 4), 2, channels)


def images(seed):
    return torch.randint(256, (SIZE, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# --- the losses, written out ---


def test_the_penalty_and_its_gradient_are_those_of_finite_differences():
    model = tiny(channels=2).double()
    method = WassersteinGAN(model, sgd, Turns())
    y = torch.rand(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def brute():
        gradient, h = torch.zeros(3, 16, dtype=torch.float64), 1e-6
        for i in range(16):
            step = torch.zeros(16, dtype=torch.float64)
            step[i] = h
            up, down = (model.value(y + sign * step.view(1, 4, 4)) for sign in (1, -1))
            gradient[:, i] = (up - down) / (2 * h)
        return ((gradient.square().sum(1).sqrt() - 1) ** 2).mean()

    penalty = method.gradient_penalty(y)
    torch.testing.assert_close(penalty, brute(), rtol=1e-7, atol=1e-9)
    weights = [model.critic[0][0].weight, model.critic[1][1].weight]
    for weight, gradient in zip(weights, torch.autograd.grad(penalty, weights), strict=True):
        flat, h, index = weight.detach().view(-1), 1e-4, gradient.abs().argmax()
        found = []
        for sign in (1, -2, 1):
            flat[index] += sign * h
            found.append(brute())
        slope = (found[0] - found[1]) / (2 * h)
        assert abs(slope) > 0.003 and slope.item() == pytest.approx(gradient.view(-1)[index].item(), rel=1e-3)


def test_the_losses_are_the_formulas():
    method, x = WassersteinGAN(tiny(), sgd, Turns(), penalty=7.0), images(1)
    model, batch = method.model, Batch(x, torch.arange(SIZE), 3)
    torch.manual_seed(5)
    loss, terms = method.loss(batch, RandomNoise())
    torch.manual_seed(5)
    z, epsilon = torch.randn(SIZE, 2), torch.rand(SIZE, 1, 1, 1)
    y, fake = x / 255, torch.sigmoid(model.generator(z))
    between = (epsilon * y + (1 - epsilon) * fake).detach().requires_grad_()
    norms = torch.autograd.grad(model.value(between).sum(), between)[0].square().sum((1, 2, 3)).sqrt()
    gap = model.value(y).mean() - model.value(fake).mean()
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)
    close(loss, 7 * (norms - 1).square().mean() - gap)
    assert terms.keys() == {"real", "generated", "penalty", "critic_gap"}
    close(terms["critic_gap"], gap)

    torch.manual_seed(5)
    loss, terms = method.finetune_critic(batch, RandomNoise())
    logits = torch.cat([model.value(y), model.value(fake)])
    labels = torch.tensor([1.0] * SIZE + [0.0] * SIZE)
    close(loss, torch.nn.functional.binary_cross_entropy_with_logits(logits, labels))
    close(terms["critic_gap"], gap)

    torch.manual_seed(5)
    close(method.generator_loss(batch, RandomNoise())[0], -model.value(fake).mean())


def test_the_generator_learns_from_its_own_turn_alone():
    method, batch = WassersteinGAN(tiny(), sgd, Turns()), Batch(images(1), torch.arange(SIZE), 3)
    for loss in (method.loss, method.finetune_critic):
        loss(batch, RandomNoise())[0].backward()
    assert all(p.grad is None for p in method.model.generator.parameters())
    assert all(p.grad is not None for p in method.model.critic.parameters())
    method.generator_loss(batch, RandomNoise())[0].backward()
    assert all(p.grad is not None and p.grad.any() for p in method.model.generator.parameters())


def test_the_loss_is_a_function_of_seed_and_step():
    def loss(seed=3, step=7, before=0):
        method = WassersteinGAN(tiny(), sgd, Turns(), seed=seed)
        with torch.no_grad():
            for value in method.model.parameters():
                value *= 2  # a critic as it is made is nearly flat
        torch.rand(before)
        batch = Batch(images(1), torch.arange(SIZE), step)
        return method.loss(batch, method.noise(batch))[0].item()

    assert loss() == loss(before=5)
    assert len({loss(), loss(step=8), loss(seed=4)}) == 3


# --- turns ---


def slowly(usual, early, generator_steps):
    """The number of critic steps done when each step of the generator comes."""
    done, found = 0, []
    for k in range(generator_steps):
        done += early if k < 25 or k % 500 == 0 else usual
        found.append(done)
    return found


@pytest.mark.parametrize(("usual", "early"), [(5, 100), (1, 1), (3, 2), (1, 7), (4, 4)])
def test_turns_are_those_of_the_loop(usual, early):
    turns, ends = Turns(usual, early), slowly(usual, early, 1300)
    assert [step + 1 for step in range(ends[-1]) if turns.generator_moves_after(step)] == ends


def test_the_papers_budget_in_batches():
    turns = Turns()
    assert slowly(5, 100, 20_001)[-1] == 106_180 == 110_181 - 4001
    assert sum(map(turns.generator_moves_after, range(106_180))) == 20_001 and turns.generator_moves_after(106_179)


# --- what is refused ---


def test_an_unknown_loss_of_the_critic_is_refused():
    with pytest.raises(UserError, match=r"finetune_loss='hinge' is not one of: cross_entropy, wasserstein"):
        WassersteinGAN(tiny(), sgd, Turns(), finetune_loss="hinge")


def test_models_of_the_wrong_kind_are_refused_with_one_of_the_right():
    vae = VAE((1, 8, 8), 2, [4], [2], 4, Bernoulli("soft"))
    with pytest.raises(UserError, match=r"of type WGAN, which VAE is not; choose .* model=wgan_grey"):
        WassersteinGAN(vae, sgd, Turns())
    with pytest.raises(UserError, match=r"of type Density, which WGAN is not; choose .* model=vae_grey"):
        MaximumLikelihood(tiny(), sgd)


def test_a_stream_that_would_go_unused_is_refused():
    method = WassersteinGAN(tiny(), sgd, Turns())
    with pytest.raises(UserError, match="does not use negative examples; remove it"):
        method.initialise(Batch(images(0), torch.arange(SIZE), 0, negative=images(1)))
    method.initialise(Batch(images(0), torch.arange(SIZE), 0))
