"""Real trainings: whose turn, whose weights, the critic alone at the end, what is learnt; resumed and diverged."""

import copy
import csv
import functools
import logging
import math
from functools import partial

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import Callback

from oodgen.data.catalog import Dataset
from oodgen.data.module import OODDataModule
from oodgen.errors import Diverged, UserError
from oodgen.methods.wgan import Turns, WassersteinGAN
from oodgen.models.wgan import WGAN
from oodgen.noise import ExampleNoise, RandomNoise
from oodgen.training import fit as training
from oodgen.training.callback import Checkpoints
from oodgen.training.device import Device
from oodgen.training.fit import fit

SIZE = 6
pytestmark = pytest.mark.filterwarnings("ignore")


def tiny(channels=4):
    torch.manual_seed(0)
    return WGAN((1, 4, 4), 2, channels)


def made(x):
    return Dataset("own", x.shape[1:], {}, "", "", lambda root, split: (x, np.arange(len(x))))


def train(method, folder, x=None, callbacks=(), **options):
    """A real training, of 36 images in 6 batches an epoch where none are given."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    x = np.random.default_rng(0).integers(0, 256, (40, 1, 4, 4), np.uint8) if x is None else x
    data = OODDataModule(made(x), {}, root=folder, batch_size=SIZE)
    options = {"max_epochs": -1, "limit_val_batches": 0} | options
    return fit(method, data, folder, Device("cpu", "32", False, False, 1), options, callbacks), data


# --- whose turn ---


def slowly(usual, early, generator_steps):
    """The number of critic steps done when each step of the generator comes."""
    done, found = 0, []
    for k in range(generator_steps):
        done += early if k < 25 or k % 500 == 0 else usual
        found.append(done)
    return found


class Watch:
    """The steps of both optimisers in order: who, at which batch, and which weights it changed."""

    def __init__(self, lr=1e-3, optimizer=torch.optim.SGD, **options):
        self.model, self.steps = tiny(), []
        self.method = WassersteinGAN(self.model, self.make, **{"turns": Turns(), **options})
        self.optimizer, self.lr = optimizer, lr

    def make(self, parameters):
        parameters = list(parameters)
        player = "critic" if parameters[0] is next(self.model.critic.parameters()) else "generator"
        assert len(parameters) == len(list(getattr(self.model, player).parameters()))
        found = self.optimizer(parameters, self.lr)
        found.register_step_pre_hook(lambda *_: setattr(self, "before", copy.deepcopy(self.model.state_dict())))
        found.register_step_post_hook(lambda *_: self.note(player))
        return found

    def note(self, player):
        after = self.model.state_dict()
        moved = {name.split(".")[0] for name, value in self.before.items() if not torch.equal(value, after[name])}
        self.steps.append((player, moved))


def test_critic_and_generator_move_in_their_ratio_over_several_epochs(tmp_path):
    watch = Watch(turns=Turns(usual=3, early=2), finetune=7)
    ended, data = train(watch.method, tmp_path, max_steps=80)
    assert len(data.train_dataloader()) == 6 and ended["epochs"] > 13
    assert ended["steps"] == watch.method.trainer.global_step == 80, "a batch is one step"
    ends, expected = slowly(3, 2, 100), []
    for step in range(80):
        expected += ["critic"] + ["generator"] * (step < 73 and step + 1 in ends)
    assert [player for player, _ in watch.steps] == expected
    assert expected.count("generator") == 25 + 23 // 3
    for player, moved in watch.steps:
        assert moved == {player}


def test_the_critic_alone_leaves_the_generator_as_it_is(tmp_path):
    class Generator(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch.step >= 8:
                seen.append(copy.deepcopy(module.model.generator.state_dict()))

    for loss in ("cross_entropy", "wasserstein"):
        seen = []
        watch = Watch(turns=Turns(1, 1), finetune=6, finetune_loss=loss)
        train(watch.method, tmp_path / loss, callbacks=[Generator()], max_steps=14)
        assert len(seen) == 6 and [player for player, _ in watch.steps[-7:]] == ["generator"] + 6 * ["critic"]
        for state in [*seen, watch.model.generator.state_dict()]:
            assert all(torch.equal(value, seen[0][name]) for name, value in state.items())
        assert all(p.requires_grad for p in watch.model.parameters())


def test_a_short_training_is_fine_tuned_in_its_second_half(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    watch = Watch(turns=Turns(1, 1))  # 4,001 steps
    train(watch.method, tmp_path, max_steps=9)
    assert [player for player, _ in watch.steps] == ["critic", "generator"] * 5 + ["critic"] * 4
    assert "training critic and generator until step 5, then the critic alone until step 9" in caplog.text
    with pytest.raises(UserError, match=r"trainer\.max_steps=-1 has no last steps"):
        train(Watch().method, tmp_path / "endless", max_steps=-1)
    with pytest.raises(UserError, match=r"gradient_clip_val is not supported with two optimisers; remove it$"):
        train(Watch().method, tmp_path / "clipped", max_steps=1, gradient_clip_val=1)


def test_epochs_end_a_training_too(tmp_path):
    watch = Watch(turns=Turns(1, 1), finetune=2)
    train(watch.method, tmp_path, max_epochs=2, max_steps=-1)
    assert [player for player, _ in watch.steps] == ["critic", "generator"] * 10 + ["critic"] * 2


def test_the_generator_meets_the_critic_that_has_just_learnt_with_codes_of_its_own(tmp_path):
    watch, seen = Watch(lr=0.01, turns=Turns(1, 1), finetune=0, seed=2), []
    make = watch.make

    def optimizer(parameters):
        found = make(parameters)
        found.register_step_pre_hook(lambda *_: seen.append((watch.before, [p.grad.clone() for p in parameters])))
        return found

    watch.method.optimizer = lambda parameters: optimizer(list(parameters))
    _, data = train(watch.method, tmp_path, max_steps=2)
    model = tiny()
    for step in range(2):
        state, gradients = seen[2 * step + 1]
        assert not torch.equal(state["critic.1.1.weight"], seen[2 * step][0]["critic.1.1.weight"])
        model.load_state_dict(state)
        watch.method.noise(data.train_dataloader().batch(step))
        _, _, z = torch.randn(SIZE, 2), torch.rand(SIZE), torch.randn(SIZE, 2)  # the first two are the critic's
        loss = -model.value(model.generator(z).sigmoid()).mean()
        for mine, explicit in zip(
            gradients, torch.autograd.grad(loss, list(model.generator.parameters())), strict=True
        ):
            torch.testing.assert_close(mine, explicit, rtol=1e-4, atol=1e-7)


# --- what is learnt ---


def one_image(count=40):
    return np.tile(np.kron([[255, 0], [0, 255]], np.ones((2, 2))).astype(np.uint8)[None, None], (count, 1, 1, 1))


def test_the_critics_gap_grows_to_the_wasserstein_distance(tmp_path):
    # of one image x, whose distance is a mean; where the samples lie close together the penalised optimum along the
    # line to them has the slope g = 1 + W / (2 lambda), the largest of g W - lambda (g - 1)^2
    penalty = 10.0
    method = WassersteinGAN(
        tiny(channels=8), partial(torch.optim.Adam, lr=2e-3), Turns(usual=10**6, early=10**6), penalty, finetune=0
    )
    with torch.no_grad():
        method.model.generator[1].weight *= 0.01
        made = method.model.generate(500, RandomNoise())
        x = torch.tensor(one_image(1)) / 255
        assert made.std(0).max() < 0.02 * (made.mean(0) - x).norm()
        distance = (x - made).flatten(1).norm(dim=1).mean().item()
    before = (method.model.value(x).mean() - method.model.value(made).mean()).item()
    train(method, tmp_path, one_image(), max_steps=300)
    after = (method.model.value(x).mean() - method.model.value(made).mean()).item()
    assert abs(before) < 0.5 * distance
    assert after == pytest.approx(distance * (1 + distance / (2 * penalty)), rel=0.03)


def test_the_generator_comes_closer_to_the_data(tmp_path):
    method = WassersteinGAN(
        tiny(channels=8), partial(torch.optim.Adam, lr=2e-3, betas=(0.5, 0.9)), Turns(3, 3), finetune=20
    )
    x, noise = torch.tensor(one_image(1)) / 255, ExampleNoise(0, torch.arange(100))

    def distance():
        with torch.no_grad():
            return (x - method.model.generate(100, noise)).flatten(1).norm(dim=1).mean().item()

    before = distance()
    train(method, tmp_path, one_image(), max_steps=300)
    assert before > 1.5 and distance() < 0.3 * before


def test_the_critic_alone_becomes_a_classifier(tmp_path):
    method = WassersteinGAN(tiny(), partial(torch.optim.Adam, lr=1e-2), Turns(100, 100), finetune=40)
    train(method, tmp_path, one_image(), max_steps=80)
    with torch.no_grad():
        real = method.model.value(torch.tensor(one_image(1)) / 255).sigmoid()
        generated = method.model.value(method.model.generate(100, RandomNoise())).sigmoid()
    assert real > 0.8 and generated.max() < 0.2


# --- curves, validation, checkpoints ---


def test_curves_tell_the_gap_of_training_and_validation_and_no_bound(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    method = WassersteinGAN(tiny(), partial(torch.optim.RMSprop, lr=1e-3), Turns(1, 1), finetune=4, seed=3)
    _, data = train(method, tmp_path, max_steps=60, limit_val_batches=None)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    terms = {"real", "generated", "penalty", "critic_gap"}
    assert {name for name in rows[0] if name.startswith("train/")} == {f"train/{term}" for term in terms}
    assert all(math.isfinite(float(rows[0][f"train/{term}"])) for term in terms)
    validated = [row for row in rows if row["val/critic_gap"]]
    assert [int(row["step"]) for row in validated] == [6 * epoch - 1 for epoch in range(1, 11)]
    held = torch.from_numpy(np.array(data.held_out["validation"].x))
    with torch.no_grad():
        noise = ExampleNoise(3, torch.arange(len(held)))
        gap = method.model.value(held / 255).mean() - method.model.value(method.model.generate(len(held), noise)).mean()
    assert float(validated[-1]["val/critic_gap"]) == pytest.approx(gap.item(), rel=1e-4)
    assert "validation critic gap" in caplog.text and "nan" not in caplog.text
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


class Killed(Exception):
    pass


class Kill(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch.step == self.step:
            raise Killed


@pytest.mark.parametrize(
    ("optimizer", "stops"),
    [(torch.optim.RMSprop, (15, 21)), (torch.optim.Adam, (4, 9, 16))],
    ids=str,
)
def test_a_resumed_training_is_a_straight_one_in_both_phases(tmp_path, monkeypatch, optimizer, stops):
    # 22 batches of 6 an epoch; the generator moves after every second one up to step 15, then no more
    monkeypatch.setattr(training, "Checkpoints", functools.partial(Checkpoints, seconds=0))

    def play(folder, *stops):
        for stop in (*stops, None):
            method = WassersteinGAN(tiny(), partial(optimizer, lr=1e-2), Turns(1, 2), finetune=7)
            if stop is None:
                train(method, tmp_path / folder, max_steps=22)
            else:
                with pytest.raises(Killed):
                    train(method, tmp_path / folder, callbacks=[Kill(stop)], max_steps=22)
        return torch.load(tmp_path / folder / "checkpoints" / "last.ckpt", weights_only=True)

    straight, resumed = play("straight"), play("resumed", *stops)
    assert straight["global_step"] == resumed["global_step"] == 22
    assert straight["state_dict"].keys() == resumed["state_dict"].keys()
    for name, value in straight["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    critic, generator = straight["optimizer_states"]
    assert [{int(s["step"]) for s in player["state"].values()} for player in (critic, generator)] == [{22}, {7}]
    for one, other in zip(straight["optimizer_states"], resumed["optimizer_states"], strict=True):
        assert one["state"].keys() == other["state"].keys()
        for i, state in one["state"].items():
            assert all(torch.equal(value, other["state"][i][key]) for key, value in state.items())
    assert (tmp_path / "straight" / "metrics.csv").read_text() == (tmp_path / "resumed" / "metrics.csv").read_text()


# --- what is not finite ---


def poison(weight):
    with torch.no_grad():
        weight.view(-1)[0] = torch.nan


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (lambda model: model.critic[1][1].weight, r"D\(x\), D\(G\(z\)\), the gradient penalty"),
        (lambda model: model.generator[-1].weight, r"D\(G\(z\)\)"),
    ],
)
def test_what_is_not_finite_stops_the_game_before_it_touches_a_weight(tmp_path, where, words):
    method = WassersteinGAN(tiny(), partial(torch.optim.SGD, lr=0.1), Turns(1, 1))
    poison(where(method.model))
    before = copy.deepcopy(method.model.state_dict())
    with pytest.raises(Diverged, match=rf"^the critic gap is not finite at step 0, in {words}$"):
        train(method, tmp_path, max_steps=3)
    for name, value in method.model.state_dict().items():
        assert torch.equal(value.nan_to_num(7.0), before[name].nan_to_num(7.0)), name
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_generators_gradient_that_is_not_finite_is_named(tmp_path):
    method = WassersteinGAN(tiny(), partial(torch.optim.SGD, lr=0.1), Turns(1, 2))
    method.model.generator[1].weight.register_hook(lambda grad: grad * torch.nan)
    with pytest.raises(Diverged, match=r"^the gradient is not finite at step 1, in generator\.1\.weight$"):
        train(method, tmp_path, max_steps=5)
