"""Members trained together are the models of separate trainings, whichever way; each is clipped and guarded alone."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging

from oodgen.data import module
from oodgen.data.catalog import Dataset
from oodgen.data.module import OODDataModule
from oodgen.data.resident import Batch, Examples, TrainLoader
from oodgen.errors import Diverged, UserError
from oodgen.methods.bpvae import BPVAE
from oodgen.methods.ensemble import GenerativeEnsemble
from oodgen.methods.likelihood import FreeBits, MaximumLikelihood
from oodgen.methods.negative_sampling import NegativeSampling
from oodgen.methods.together import Stacked, sequential
from oodgen.models.density import Bound
from oodgen.models.likelihoods import Bernoulli
from oodgen.models.vae import VAE
from oodgen.training import fit as training
from oodgen.training.callback import Checkpoints
from oodgen.training.device import Device

CPU = torch.device("cpu")
M, SEED = 3, 2
SEEDS = [2000, 2001, 2002]
WAYS = {"sequential": lambda methods: partial(sequential, methods), "stacked": Stacked}
X = np.random.default_rng(0).integers(0, 256, (50, 1, 8, 8), np.uint8)
adam = partial(torch.optim.Adam, lr=1e-2)


def vae(batch_norm=True):
    return VAE((1, 8, 8), 3, [4], [2], 4, Bernoulli("dynamic"), batch_norm=batch_norm)


METHODS = {
    "likelihood": lambda seed: MaximumLikelihood(vae(), adam, seed, 2, 3, FreeBits(0.5, "layer", 1, 1)),
    "bpvae": lambda seed: BPVAE(vae(), adam, seed=seed),
}


def attach(method):
    """As much of a trainer as the loss looks at."""
    method._trainer = SimpleNamespace(num_training_batches=6)
    return method


def loader(seed, members=None, auxiliary=False):
    streams = [Examples(X[:9], CPU, 10**9)] if auxiliary else []
    return TrainLoader(Examples(X, CPU, 10**9), 8, seed, auxiliary=streams, members=members)


@pytest.fixture
def double(monkeypatch):
    """Everything in float64, what the models take care to compute in float32 too."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", METHODS)
def test_ten_steps_together_are_ten_steps_apart(double, name, way):
    ensemble = GenerativeEnsemble(METHODS[name], M, SEED)
    batches = loader(SEED, M, name == "bpvae")
    ensemble.initialise(batches.batch(0))
    step, optimizer = WAYS[way](list(map(attach, ensemble.methods))), adam(ensemble.parameters())
    losses = []
    for at in range(10):
        found = step(batches.batch(at).members())
        for member, gradients in zip(ensemble.model.members, found.gradients, strict=True):
            for parameter, gradient in zip(member.parameters(), gradients, strict=True):
                parameter.grad = gradient
        optimizer.step()
        losses.append(found.losses)

    for m, seed in enumerate(SEEDS):
        torch.manual_seed(seed)
        alone = attach(METHODS[name](seed))
        own, optimizer = loader(seed, None, name == "bpvae"), adam(alone.parameters())
        alone.initialise(own.batch(0))
        for at in range(10):
            batch = own.batch(at)
            loss, _ = alone.loss(batch, alone.noise(batch))
            torch.testing.assert_close(losses[at][m], loss.detach(), rtol=1e-9, atol=1e-9)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        member = ensemble.model.members[m].state_dict()
        for key, value in alone.model.state_dict().items():
            torch.testing.assert_close(member[key], value, rtol=1e-5, atol=1e-12, msg=key)
    first, second = (dict(member.named_parameters()) for member in ensemble.model.members[:2])
    assert all(not torch.equal(first[key], second[key]) for key in first)


class Dropout(VAE):
    """A model that draws from torch past the noise it is given."""

    def forward(self, y, noise, samples=1):
        bound = super().forward(y, noise, samples)
        return Bound(torch.nn.functional.dropout(bound.log_px, 0.5), bound.log_ratios, bound.closed_kls)


def test_draws_past_the_noise_differ_between_stacked_members_and_repeat_with_the_step():
    def make(seed):
        torch.manual_seed(0)  # the same weights, and below the same batch
        return MaximumLikelihood(Dropout((1, 8, 8), 3, [4], [2], 4, Bernoulli("soft")), adam, seed)

    batch = loader(0).batch(3)
    ensemble = GenerativeEnsemble(make, M, SEED)
    step = Stacked(ensemble.methods)
    losses = [step([batch] * M).losses for _ in range(2)]
    assert torch.equal(*losses)
    assert len(losses[0].unique()) == M


def test_stacking_moves_no_statistics_but_by_its_steps():
    ensemble = GenerativeEnsemble(METHODS["likelihood"], M, SEED)
    step, batches = Stacked(list(map(attach, ensemble.methods))), loader(SEED, M).batch(0).members()
    for count in (1, 2):
        step(batches)
        counted = {key: value for key, value in ensemble.state_dict().items() if key.endswith("batches_tracked")}
        assert counted and all(value == count for value in counted.values())


# --- the whole training ---


def data(members=M, seed=SEED):
    dataset = Dataset("tiny", (1, 8, 8), {}, "", "", None)  # read by `_load`
    return OODDataModule(dataset, {}, root="nowhere", batch_size=8, seed=seed, members=members)


@pytest.fixture
def fit(monkeypatch, tmp_path):
    """Trains for two epochs and a half, saving at each step; the training's folder and what it says of itself."""
    monkeypatch.setattr(training, "Checkpoints", partial(Checkpoints, seconds=0))
    monkeypatch.setattr(OODDataModule, "_load", _load)
    count = iter(range(100))

    def run(method, callbacks=(), members=M, seed=SEED, folder=None, **options):
        folder = folder or tmp_path / str(next(count))
        device = Device("cpu", "32", False, threads=1)
        said = training.fit(method, data(members, seed), folder, device, {"max_steps": 12, **options}, callbacks)
        return folder, said

    return run


def _load(self, dataset, split):
    return module.TestSet(X if split == "train" else X[:4], "tiny", "", "")


def ensemble(how="auto", make=METHODS["likelihood"], **options):
    return GenerativeEnsemble(make, M, SEED, how, **options)


def weights(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": 0.5}, {"accumulate_grad_batches": 2, "max_steps": 6}])
def test_a_training_is_that_of_single_models_bit_for_bit(fit, options):
    together, said = fit(ensemble(), **options)
    assert said["how"] == "sequential" and said["members"] == M and said["warnings"] == []
    mine = weights(together)
    for m, seed in enumerate(SEEDS):
        torch.manual_seed(seed)
        alone, _ = fit(METHODS["likelihood"](seed), members=None, seed=seed, **options)
        other = weights(alone)
        assert len(other) * M + 1 == len(mine)
        for key, value in other.items():
            assert torch.equal(mine[key.replace("model.", f"model.members.{m}.", 1)], value), key


def test_both_ways_write_the_same_checkpoint(fit):
    one, other = (fit(ensemble(how)) for how in ("sequential", "stacked"))
    assert other[1]["how"] == "stacked"
    mine, theirs = weights(one[0]), weights(other[0])
    assert mine.keys() == theirs.keys()
    for key in mine:
        torch.testing.assert_close(mine[key], theirs[key], rtol=1e-3, atol=1e-4, msg=key)


class Stop(Callback):
    """Ends a training as a killed process would."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch.step == self.step:
            raise RuntimeError("killed")


@pytest.mark.parametrize("how", ["sequential", "stacked"])
@pytest.mark.parametrize("callbacks", [list, lambda: [EMAWeightAveraging(decay=0.9)]], ids=["plain", "ema"])
def test_a_killed_training_ends_as_a_straight_one(fit, how, callbacks):
    straight, _ = fit(ensemble(how), callbacks())
    folder = None
    for stop in (3, 8):
        with pytest.raises(RuntimeError, match="killed"):
            folder, _ = fit(ensemble(how), [*callbacks(), Stop(stop)], folder=straight.parent / "killed")
    folder, said = fit(ensemble(how), callbacks(), folder=straight.parent / "killed")
    assert said["steps"] == 12 and said["how"] == how
    for name in ("last", "best"):
        mine, other = weights(folder, name), weights(straight, name)
        assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)


def test_averages_are_those_of_each_member(fit):
    class Watch(Callback):
        average = None

        def on_train_batch_end(self, trainer, module, *_):
            now = {key: value.clone() for key, value in module.model.members[1].named_parameters()}
            self.average = {k: v if self.average is None else 0.9 * self.average[k] + 0.1 * v for k, v in now.items()}

    watch = Watch()
    folder, _ = fit(ensemble(), [watch, EMAWeightAveraging(decay=0.9)])
    for key, value in watch.average.items():
        torch.testing.assert_close(weights(folder)[f"model.members.1.{key}"], value, msg=key)


# --- clipping and what is not finite, member by member ---


def test_each_member_is_clipped_by_its_own_norm():
    method = ensemble()
    before = []
    for member, size in zip(method.model.members, (1e-3, 10.0, 1e-3), strict=True):
        for parameter in member.parameters():
            parameter.grad = size * torch.randn_like(parameter)
        before.append([parameter.grad.clone() for parameter in member.parameters()])
    method.configure_gradient_clipping(None, 1.0)
    for m, member in enumerate(method.model.members):
        after = [parameter.grad for parameter in member.parameters()]
        if m == 1:
            assert torch.nn.utils.get_total_norm(after) == pytest.approx(1)
        else:
            assert all(map(torch.equal, after, before[m]))
    method.configure_gradient_clipping(None, 1e-4, "value")
    assert max(p.grad.abs().max() for p in method.parameters()) <= 1e-4 * (1 + 1e-6)


class Spoil(Callback):
    """Spoils a member's weights, gradients or both averages at a step."""

    def __init__(self, member, step, what="weights", value=float("nan")):
        self.member, self.step, self.what, self.value = member, step, what, value

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch.step == self.step and self.what == "weights":
            self._fill(module, "data")

    def on_after_backward(self, trainer, module):
        if trainer.global_step == self.step and self.what == "gradients":
            self._fill(module, "grad")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch.step == self.step and self.what == "after":
            self._fill(module, "data")

    def _fill(self, module, what):
        getattr(next(module.model.members[self.member - 1].parameters()), what).fill_(self.value)


WORDS = {
    "weights": "the bound is not finite at step 4",
    "gradients": "the gradient is not finite at step 4",
    "after": "the weights are not finite at step 5",
}


@pytest.mark.parametrize("what", WORDS)
def test_a_member_that_diverges_ends_the_training_and_is_named(fit, what):
    with pytest.raises(Diverged, match=rf"^member 2: {WORDS[what]}, in .*method.drop=true continues without it$"):
        fit(ensemble(), [Spoil(2, 4, what)])


@pytest.mark.parametrize("how", ["sequential", "stacked"])
@pytest.mark.parametrize("what", WORDS)
def test_the_others_go_on_as_if_nothing_had_happened(fit, how, what):
    whole, _ = fit(ensemble(how))
    method = ensemble(how, drop=True)
    folder, said = fit(method, [Spoil(2, 4, what)])
    assert said["members"] == 2 and said["how"] == how
    (warning,) = said["warnings"]
    assert warning.startswith(f"member 2 was dropped: {WORDS[what]}")
    mine, other = weights(folder), weights(whole)
    assert mine["model.alive"].tolist() == [True, False, True]
    assert list(method.model.active_members()) == [1, 3]
    for key in other:
        if key.startswith(("model.members.0.", "model.members.2.")):
            # two stacked convolutions add up in another order than three
            torch.testing.assert_close(mine[key], other[key], rtol=0 if how == "sequential" else 1e-3, atol=1e-4)


def test_a_dropped_member_stays_dropped_after_a_resume_and_in_averages(fit, tmp_path):
    folder = tmp_path / "resumed"
    with pytest.raises(RuntimeError, match="killed"):
        fit(ensemble(drop=True), [EMAWeightAveraging(decay=0.9), Spoil(3, 2), Stop(6)], folder=folder)
    method = ensemble(drop=True)
    _, said = fit(method, [EMAWeightAveraging(decay=0.9)], folder=folder)
    assert said["members"] == 2 and "member 3" in said["warnings"][0]
    assert weights(folder)["model.alive"].tolist() == [True, True, False]
    assert weights(folder, "best")["model.alive"].tolist() == [True, True, False]
    assert all(v.isfinite().all() for k, v in weights(folder).items() if not k.startswith("model.members.2."))


def test_two_must_remain(fit):
    with pytest.raises(Diverged, match=r"^member 1: the bound is not finite at step 7, in [^;]*$"):
        fit(ensemble(drop=True), [Spoil(2, 4), Spoil(1, 7)])


# --- which way, and what is refused ---


class Counting(VAE):
    """A model whose path depends on its numbers, which cannot be vectorised."""

    def forward(self, y, noise, samples=1):
        return super().forward(y, noise, 1 + (y.mean().item() > 2))


@pytest.mark.parametrize(("model", "used"), [(vae, "stacked"), (Counting, "sequential")])
def test_a_gpu_stacks_what_can_be_stacked(monkeypatch, caplog, model, used):
    def make(seed):
        built = vae() if model is vae else Counting((1, 8, 8), 3, [4], [2], 4, Bernoulli("soft"))
        return MaximumLikelihood(built, adam, seed)

    method = ensemble(make=make)
    monkeypatch.setattr(GenerativeEnsemble, "device", SimpleNamespace(type="cuda"))
    found = method._step(loader(SEED, M).batch(0).members())
    assert method.used == used and found.losses.shape == (M,)
    assert ("cannot be stacked" in caplog.text) == (used == "sequential")
    if used == "sequential":
        with pytest.raises(RuntimeError, match="item"):
            ensemble("stacked", make)._step(loader(SEED, M).batch(0).members())


def test_wrong_options_are_one_line():
    with pytest.raises(UserError, match="at least 2"):
        GenerativeEnsemble(METHODS["likelihood"], 1)
    with pytest.raises(UserError, match=r"method.inputs names 2 different trainings, but method.size=3"):
        ensemble(inputs=["a", "b"])
    with pytest.raises(UserError, match=r"method.inputs names 2 different trainings"):
        ensemble(inputs=["a", "b", "a"])


def test_members_that_take_steps_of_their_own_train_apart():
    def game(seed):
        return NegativeSampling(vae(), adam, "generated", seed=seed)

    assert ensemble(make=game).apart and ensemble("apart").apart and not ensemble().apart
    assert not ensemble(make=game, inputs=["a", "b", "c"]).apart
    for how in ("sequential", "stacked"):
        with pytest.raises(UserError, match=r"NegativeSampling .* several optimisers.*method.how=apart"):
            ensemble(how, make=game)
    with pytest.raises(UserError, match=r"method.drop needs members that train together"):
        ensemble(make=game, drop=True)


def test_data_of_a_single_model_are_refused(fit):
    with pytest.raises(UserError, match=r"have no batches for 3 members; set data.members"):
        fit(ensemble(), members=None)
    with pytest.raises(UserError, match=r"have no batches for 3 members"):
        fit(ensemble(), members=2)


def test_a_stream_that_no_member_uses_is_refused():
    batch = Batch.of_members([loader(seed, auxiliary=True).batch(0) for seed in SEEDS])
    with pytest.raises(UserError, match="does not use auxiliary examples"):
        ensemble().initialise(batch)


def test_it_is_a_lightning_module_of_one_model():
    method = ensemble()
    assert isinstance(method, pl.LightningModule)
    names = dict(method.named_parameters())
    assert all(name.startswith("model.members.") for name in names)
    assert len(names) == sum(len(list(member.parameters())) for member in method.model.members)
