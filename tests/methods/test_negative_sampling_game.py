"""The game of encoder and decoder: whose gradient, whose weights, which step, resumed, clipped and diverged."""

import copy
import csv
import logging
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from oodgen.data.catalog import Dataset
from oodgen.data.module import OODDataModule
from oodgen.errors import Diverged, UserError
from oodgen.methods.negative_sampling import NegativeSampling
from oodgen.models.likelihoods import Bernoulli
from oodgen.models.vae import VAE
from oodgen.training.device import Device
from oodgen.training.fit import fit

LATENT, SIZE, SHIFT = 2, 6, 3.0
sgd = partial(torch.optim.SGD, lr=0.0)


def tiny(**options):
    torch.manual_seed(0)
    model = VAE((1, 8, 8), LATENT, [4], [2], 4, Bernoulli("soft"), activation="Softplus", **options)
    with torch.no_grad():
        model.decoder.lift[0].weight *= 5  # codes matter
    return model


# --- the loss, written out ---


def divergence(q, m=0.0):
    return ((q.mean - m) ** 2 + q.stddev**2 - 1 - (q.stddev**2).log()).sum(1).mean() / 2


def reconstruction(model, q, y, draw):
    return (
        model.likelihood(model.decoder.features(model.decoder.lift(q.mean + q.stddev * draw))[None]).log_prob(y).mean()
    )


def generated(model, draw):
    return model.decoder(draw[None]).mean[0]


# --- real trainings ---


def made(name="own", shape=(1, 8, 8)):
    def read(root, split):
        count = 40 if split == "train" else 10
        return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8), np.arange(count)

    return Dataset(name, shape, {}, "", "", read)


def train(method, folder, precision="32", **options):
    """A real training on 36 images, 6 batches an epoch."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    data = OODDataModule(made(), {}, root=folder, batch_size=SIZE)
    options = {"max_epochs": -1, "limit_val_batches": 0} | options
    return fit(method, data, folder, Device("cpu", precision, False, False, 1), options), data


class Turn:
    """One step of one optimiser: all weights before and after, and the gradients at hand."""

    def __init__(self, player, model):
        self.player, self.before = player, copy.deepcopy(model)
        self.grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
        self.requires = [p.requires_grad for p in model.parameters()]


@pytest.fixture
def watched(tmp_path):
    """Train the game for some steps; returns the method, and each turn in order."""

    def play(steps=2, lr=0.05, precision="32", **options):
        model, turns = tiny(), []
        folder = tmp_path / f"play{len(list(tmp_path.iterdir()))}"

        def optimizer(parameters):
            parameters = list(parameters)
            mine = {id(p) for p in parameters}
            assert mine in [{id(p) for p in part.parameters()} for part in (model.encoder, model.decoder)]
            player = "encoder" if id(model.encoder.head.weight) in mine else "decoder"
            found = torch.optim.SGD(parameters, lr)
            found.register_step_pre_hook(lambda *_: turns.append(Turn(player, model)))
            found.register_step_post_hook(lambda *_: setattr(turns[-1], "after", copy.deepcopy(model)))
            return found

        method = NegativeSampling(model, optimizer, "generated", shift=SHIFT, seed=2, **options)
        ended, data = train(method, folder, precision, max_steps=steps)
        method.ended, method.loader, method.folder = ended, data.train_dataloader(), folder
        return method, turns

    return play


def draws(method, step):
    """The four draws of a batch: z and the noise of q, for the encoder's turn, then for the decoder's."""
    method.noise(method.loader.batch(step))
    return [torch.randn(SIZE, LATENT) for _ in range(4)]


@pytest.mark.filterwarnings("ignore")
def test_each_turn_has_the_gradient_of_its_own_loss(watched):
    method, turns = watched(steps=2)
    assert [turn.player for turn in turns] == ["encoder", "decoder"] * 2
    for step in range(2):
        y = method.loader.batch(step).x / 255
        z, e, z_decoder, e_decoder = draws(method, step)
        first, second = turns[2 * step], turns[2 * step + 1]

        model = first.before
        q = model.encoder(y)
        negatives = generated(model, z).detach()
        loss = divergence(q) - reconstruction(model, q, y, e) + divergence(model.encoder(negatives), SHIFT)
        compare(first, "encoder", torch.autograd.grad(loss, list(model.encoder.parameters())))

        # the encoder that reacts to G(z) is the one that has just learnt, and it is held fixed
        model = second.before
        pulled = divergence(model.encoder(generated(model, z_decoder)))
        loss = pulled - reconstruction(model, model.encoder(y), y, e_decoder)
        compare(second, "decoder", torch.autograd.grad(loss, list(model.decoder.parameters()), retain_graph=True))
        reaction = torch.autograd.grad(pulled, list(model.decoder.parameters()))
        assert all(grad.abs().max() > 1e-3 for grad in reaction)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pull", [0.0, 0.3])
def test_pull_weighs_what_the_decoder_gives_for_its_samples(watched, pull):
    method, turns = watched(steps=1, pull=pull)
    y = method.loader.batch(0).x / 255
    method.noise(method.loader.batch(0))
    # without a pull the decoder's turn draws no sample: the noise of q comes third
    drawn = [torch.randn(SIZE, LATENT) for _ in range(3 if pull == 0 else 4)]
    model = turns[1].before
    loss = -reconstruction(model, model.encoder(y), y, drawn[-1])
    if pull:
        loss = loss + pull * divergence(model.encoder(generated(model, drawn[2])))
    compare(turns[1], "decoder", torch.autograd.grad(loss, list(model.decoder.parameters())))


def compare(turn, player, expected):
    mine = [grad for name, grad in turn.grads.items() if name.startswith(player)]
    for grad, explicit in zip(mine, expected, strict=True):
        torch.testing.assert_close(grad, explicit, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_turn_moves_its_player_and_leaves_the_other_one_alone(watched):
    method, turns = watched(steps=2)
    # nothing has reached the decoder before its own first turn, generated images included
    assert all(grad is None for name, grad in turns[0].grads.items() if name.startswith("decoder"))
    for before, turn in zip([None, *turns], turns, strict=False):
        for name, value in turn.before.state_dict().items():
            assert torch.equal(value, turn.after.state_dict()[name]) != name.startswith(turn.player), name
            if before is not None:
                assert torch.equal(value, before.after.state_dict()[name])
        if before is not None:  # the other one's gradients are the old ones
            others = [name for name in turn.grads if not name.startswith(turn.player)]
            for name in others:
                old = before.grads[name]
                assert torch.equal(turn.grads[name], old), name
        assert all(turn.requires)
    assert all(p.requires_grad for p in method.model.parameters())


@pytest.mark.filterwarnings("ignore")
def test_in_bf16_the_decoder_meets_the_encoder_that_has_just_learnt(watched):
    # autocast keeps copies of weights for as long as a step lasts
    method, turns = watched(steps=1, lr=0.3, precision="bf16")
    rows = list(csv.DictReader((method.folder / "metrics.csv").open()))
    found = float(rows[0]["train/kl_generated"])
    z = draws(method, 0)[2]
    old, new = (divergence(model.encoder(generated(model, z))).item() for model in (turns[0].before, turns[1].before))
    assert abs(old - new) > 0.2 * new
    assert found == pytest.approx(new, rel=0.05)


@pytest.mark.filterwarnings("ignore")
def test_a_batch_of_the_game_is_one_step(tmp_path):
    method = NegativeSampling(tiny(), partial(torch.optim.RMSprop, lr=1e-3), "generated")
    ended, data = train(method, tmp_path, max_epochs=2, limit_val_batches=None)
    batches = len(data.train_dataloader())
    assert batches == 6 and ended["steps"] == method.trainer.global_step == 2 * batches and ended["epochs"] == 2
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows if row["val/bound"]] == [batches - 1, 2 * batches - 1]
    for term in ("log_px", "kl_1", "kl_negative", "kl_generated", "bound"):
        assert math.isfinite(float(rows[0][f"train/{term}"]))
    assert [group["lr"] for optimizer in method.trainer.optimizers for group in optimizer.param_groups] == [1e-3] * 2


# --- resuming ---


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("optimizer", [torch.optim.RMSprop, torch.optim.Adam])
def test_a_resumed_game_is_a_straight_one(tmp_path, optimizer):
    def play(folder, *stops):
        for steps in stops:
            method = NegativeSampling(tiny(batch_norm=True), partial(optimizer, lr=1e-2), "generated", clip=20.0)
            train(method, tmp_path / folder, max_steps=steps)
        return torch.load(tmp_path / folder / "checkpoints" / "last.ckpt", weights_only=True)

    straight, resumed = play("straight", 9), play("resumed", 4, 9)
    assert straight["global_step"] == resumed["global_step"] == 9
    assert straight["state_dict"].keys() == resumed["state_dict"].keys()
    for name, value in straight["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    assert len(straight["optimizer_states"]) == 2
    for one, other in zip(straight["optimizer_states"], resumed["optimizer_states"], strict=True):
        assert one["state"].keys() == other["state"].keys() and one["state"]
        for i, state in one["state"].items():
            assert all(torch.equal(value, other["state"][i][key]) for key, value in state.items())


# --- clipping, and what is not finite ---


def norm(turn):
    return torch.nn.utils.get_total_norm([grad for name, grad in turn.grads.items() if name.startswith(turn.player)])


@pytest.mark.filterwarnings("ignore")
def test_clip_bounds_the_gradient_of_either_player(watched):
    _, free = watched(steps=1)
    clip = min(norm(turn) for turn in free).item() / 2
    method, turns = watched(steps=1, clip=clip)
    assert method.ended["steps"] == 1
    for turn in turns:
        assert norm(turn).item() == pytest.approx(clip, rel=1e-3)
    # not a change of direction
    for name, grad in free[0].grads.items():
        if name.startswith("encoder"):
            torch.testing.assert_close(turns[0].grads[name], grad * (clip / norm(free[0])), rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_large_clip_changes_nothing(watched):
    _, free = watched(steps=1)
    _, turns = watched(steps=1, clip=1e9)
    for one, other in zip(free, turns, strict=True):
        assert all(torch.equal(value, other.after.state_dict()[name]) for name, value in one.after.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_the_trainers_clipping_is_refused_in_the_game_and_names_the_right_one(tmp_path):
    method = NegativeSampling(tiny(), sgd, "generated")
    with pytest.raises(UserError, match=r"trainer\.gradient_clip_val .*method\.clip$") as error:
        train(method, tmp_path, gradient_clip_val=1.0)
    assert "\n" not in str(error.value)
    method = NegativeSampling(tiny(), sgd, "uniform")
    assert train(method, tmp_path, gradient_clip_val=1.0, max_steps=1)[0]["steps"] == 1


def poison(weight):
    with torch.no_grad():
        weight.view(-1)[0] = torch.nan


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("where", "named"),
    [
        (lambda method: poison(method.model.decoder.features[-1].weight), r"log p\(x\|z\), the KL of the negatives"),
        (lambda method: poison(method.model.encoder.head.weight), r"log p\(x\|z\), the KL of layer z1, .* negatives"),
        (lambda method: poison(method.shifted.mean), "the KL of the negatives"),
    ],
)
def test_what_is_not_finite_stops_the_game_before_it_touches_a_weight(tmp_path, where, named):
    method = NegativeSampling(tiny(), partial(torch.optim.SGD, lr=0.1), "generated")
    where(method)
    before = copy.deepcopy(method.model.state_dict())
    with pytest.raises(Diverged, match=rf"^the bound is not finite at step 0, in {named}$"):
        train(method, tmp_path, max_steps=3)
    for name, value in method.model.state_dict().items():
        assert torch.equal(value.nan_to_num(7.0), before[name].nan_to_num(7.0)), name
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.filterwarnings("ignore")
def test_a_decoders_turn_that_is_not_finite_is_named_too(tmp_path):
    method, calls = NegativeSampling(tiny(), partial(torch.optim.SGD, lr=0.1), "generated"), []

    class Poison(nn.Module):
        """The features' second pass of the third batch, which is the decoder's turn."""

        def forward(self, x):
            calls.append(1)
            return x * torch.nan if len(calls) == 1 + 6 else x

    method.model.encoder.features.append(Poison())
    with pytest.raises(Diverged, match=r"^the bound is not finite at step 2, in the KL of generated images$"):
        train(method, tmp_path, max_steps=5)
    assert all(value.isfinite().all() for value in method.model.state_dict().values())
