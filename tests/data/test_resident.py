"""A batch is a function of (seed, step) alone, wherever its examples lie."""

import numpy as np
import pytest
import torch

from oodgen.data.resident import Batch, Examples, SequentialLoader, TrainLoader, mutate

CPU = torch.device("cpu")
X = np.random.default_rng(0).integers(0, 256, (50, 1, 4, 4), np.uint8)


@pytest.fixture
def mapped(tmp_path) -> np.ndarray:
    np.save(tmp_path / "x.npy", X)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def _loader(resident: int = 10**9, x: np.ndarray = X, rows: np.ndarray | None = None, seed: int = 3) -> TrainLoader:
    side = [Examples(X[:7], CPU, resident), Examples(X[:3], CPU, resident)]
    labels = torch.arange(len(x) if rows is None else len(rows))
    return TrainLoader(Examples(x, CPU, resident, rows), 8, seed, labels, side[:1], side[1])


def _same(a: Batch, b: Batch) -> bool:
    tensors = [
        (a.x, b.x),
        (a.index, b.index),
        (a.y, b.y),
        (a.negative, b.negative),
        *zip(a.auxiliary, b.auxiliary, strict=True),
    ]
    return a.step == b.step and all(torch.equal(x, y) for x, y in tensors)


def test_held_and_mapped_examples_are_the_same(mapped):
    index = torch.tensor([7, 3, 3, 49, 0])
    rows = np.arange(49, -1, -1)
    for chosen in (None, rows):
        held, far = Examples(mapped, CPU, 10**9, chosen), Examples(mapped, CPU, 0, chosen)
        assert held.array is None and far.on_device is None
        assert torch.equal(held.take(index), far.take(index))
        assert torch.equal(held.take(index), torch.from_numpy(X if chosen is None else X[chosen])[index])


def test_what_does_not_fit_stays_on_disk(mapped):
    few = np.arange(5)
    assert Examples(mapped, CPU, 80, few).on_device is not None  # 5 rows of 16 bytes
    far = Examples(mapped, CPU, 79, few)
    assert far.array is mapped and far.size == 5


def test_an_epoch_shows_every_example_at_most_once():
    loader = _loader()
    seen = torch.cat([batch.index for batch in loader])
    assert len(loader) == 6 and len(seen) == 48 and len(seen.unique()) == 48
    again = torch.cat([batch.index for batch in loader])
    assert not torch.equal(seen, again), "the next epoch is another permutation"


@pytest.mark.parametrize("resident", [0, 10**9])
@pytest.mark.parametrize("stop", [0, 1, 5, 6, 7, 11, 12])
def test_a_loader_that_resumes_shows_what_was_left(mapped, resident, stop):
    rows = np.sort(np.random.default_rng(1).permutation(50)[:48])
    whole = _loader(resident, mapped, rows)
    straight = [batch for _ in range(4) for batch in whole]
    first = _loader(resident, mapped, rows)
    shown = []
    while len(shown) < stop:
        for batch in first:
            shown.append(batch)
            if len(shown) == stop:
                break
    state = first.state_dict()
    assert state == {"step": stop}
    second = _loader(resident, mapped, rows)
    second.load_state_dict(state)
    while len(shown) < 24:
        shown += list(second)
    assert all(map(_same, shown, straight))


def test_batches_do_not_touch_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(_loader())
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_and_streams_differ():
    a, b = _loader(seed=3).batch(9), _loader(seed=4).batch(9)
    assert not torch.equal(a.index, b.index)
    assert not torch.equal(a.auxiliary[0], b.auxiliary[0])
    assert a.negative is not None and a.negative.shape == a.x.shape
    assert torch.equal(a.y, a.index), "labels go with their examples"


def test_a_set_smaller_than_a_batch_is_an_epoch_of_one():
    loader = TrainLoader(Examples(X[:5], CPU, 10**9), 8, 0)
    assert len(loader) == 1 and len(loader.batch(0).x) == 5


def test_sequential_batches_are_everything_in_order(mapped):
    batches = list(SequentialLoader(Examples(mapped, CPU, 0), 16))
    assert [len(batch.x) for batch in batches] == [16, 16, 16, 2]
    assert torch.equal(torch.cat([batch.x for batch in batches]), torch.from_numpy(X))
    assert torch.equal(torch.cat([batch.index for batch in batches]), torch.arange(50))
    assert all(batch.y is None for batch in batches)
    labelled = SequentialLoader(Examples(mapped, CPU, 0), 16, torch.arange(50) + 7)
    assert torch.equal(torch.cat([batch.y for batch in labelled]), torch.arange(50) + 7)


def test_mutated_pixels_are_a_share_mu_of_all_uniform_and_anywhere():
    x = torch.full((64, 3, 32, 32), 7, dtype=torch.uint8)
    mutated = mutate(x, 0.2, torch.Generator().manual_seed(0))
    n, changed = x.numel(), mutated != x
    assert mutated.dtype == torch.uint8 and (x == 7).all()
    share = 0.2 * 255 / 256  # the new value may be the old one
    assert changed.float().mean().item() == pytest.approx(share, abs=4 * (share * (1 - share) / n) ** 0.5)
    # chi-squared of 254 degrees of freedom: mean 254, variance 508
    counts = mutated[changed].long().bincount(minlength=256).double()
    assert counts[7] == 0
    expected = counts.sum() / 255
    others = torch.cat([counts[:7], counts[8:]])
    assert abs(((others - expected) ** 2 / expected).sum().item() - 254) < 4 * 508**0.5
    # no image, channel or place is spared
    for axes in ((1, 2, 3), (0, 2, 3), (0, 1, 2), (0, 1, 3)):
        means = changed.float().mean(axes)
        each = n / len(means)
        assert (means - share).abs().max() < 5 * (share * (1 - share) / each) ** 0.5
    assert torch.equal(mutate(x, 0.0, torch.Generator()), x)
    assert (mutate(x, 1.0, torch.Generator()) != x).float().mean() > 0.99


def test_a_mutated_batch_is_a_function_of_seed_and_step_and_of_the_plain_one():
    labels, side = torch.arange(50), Examples(X[:7], CPU, 10**9)
    plain, one, same = (
        TrainLoader(Examples(X, CPU, 10**9), 8, 3, labels, [side], side, mutation=rates) for rates in ((), [0.5], [0.5])
    )
    for step in (0, 9):
        a, b = plain.batch(step), one.batch(step)
        assert _same(b, same.batch(step)) and not torch.equal(a.x, b.x)
        assert _same(a, b._replace(x=a.x)), "what is not mutated stays as it was"
        assert 0.3 < (a.x != b.x).float().mean() < 0.7
    hits = [(plain.batch(step).x != one.batch(step).x) for step in (0, 1)]
    assert not torch.equal(*hits)
    # of two members the second alone is mutated
    pair = TrainLoader(Examples(X, CPU, 10**9), 8, 2, labels, [side], side, members=2, mutation=[0.0, 0.5])
    for m, rate in enumerate(pair.rates):
        alone = TrainLoader(Examples(X, CPU, 10**9), 8, 2000 + m, labels, [side], side, mutation=[rate])
        assert _same(pair.batch(4).members()[m], alone.batch(4))


def test_members_are_served_what_single_models_of_their_seeds_are(mapped):
    side = Examples(X[:7], CPU, 10**9)
    for x, resident in ((X, 10**9), (mapped, 0)):
        labels = torch.arange(len(x))
        loader = TrainLoader(Examples(x, CPU, resident), 8, 2, labels, [side], side, members=3)
        singles = [_loader(resident, x, seed=seed) for seed in (2000, 2001, 2002)]
        for single in singles:
            single.streams = [side, side]
        for batch in [*loader, *loader]:  # over the edge of an epoch
            assert batch.x.shape == (3, 8, 1, 4, 4) and batch.y.shape == (3, 8)
            assert all(
                _same(own, single.batch(batch.step)) for own, single in zip(batch.members(), singles, strict=True)
            )
        assert loader.step == 2 * len(loader)
        assert len({tuple(row) for row in batch.index.tolist()}) == 3


def test_without_streams_and_labels_members_have_none():
    (first, second) = TrainLoader(Examples(X, CPU, 10**9), 8, 0, members=2).batch(1).members()
    assert first.y is None and first.negative is None and first.auxiliary == () and second.step == 1
