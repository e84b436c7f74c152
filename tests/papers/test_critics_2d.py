"""The picture in the plane: networks side by side, and the file."""

import pytest
import torch

from oodgen.papers import critics_2d
from oodgen.papers.critics_2d import CENTRE, SIDE, SIGMA, StackedNetworks


def test_networks_side_by_side_train_as_apart():
    torch.manual_seed(0)
    together = StackedNetworks(3, (2, 5, 4, 1)).double()
    x, goal = torch.randn(3, 7, 2).double(), torch.randn(3, 7, 1).double()
    alone = []
    for m in range(3):
        net = StackedNetworks(1, (2, 5, 4, 1)).double()
        net.load_state_dict({name: value[m : m + 1].clone() for name, value in together.state_dict().items()})
        alone.append(net)
    for nets, rows in ((together, slice(None)), *((net, slice(m, m + 1)) for m, net in enumerate(alone))):
        optimizer = torch.optim.Adam(nets.parameters(), 0.05)
        for _ in range(10):
            optimizer.zero_grad()
            (nets(x[rows]) - goal[rows]).square().mean((1, 2)).sum().backward()
            optimizer.step()
    for name, value in together.named_parameters():
        for m, net in enumerate(alone):
            torch.testing.assert_close(value[m : m + 1], net.get_parameter(name), rtol=1e-9, atol=1e-9)


def test_the_gradient_penalty_by_hand():
    # a critic of slope w everywhere: E f(made) - E f(true) + 10 (|w| - 1)^2
    critic = StackedNetworks(1, (2, 1))
    with torch.no_grad():
        critic[0].weight.copy_(torch.tensor([[[3.0], [4.0]]]))
    true, made = torch.randn(1, 50, 2), torch.randn(1, 50, 2)
    difference = ((made - true) @ torch.tensor([3.0, 4.0])).mean()
    torch.testing.assert_close(critics_2d._critic_loss(critic, true, made), difference + 10 * 16)


def test_the_flow_learns_the_gaussian_and_the_grid_is_the_plane(monkeypatch):
    monkeypatch.setattr(critics_2d, "CRITIC_STEPS", 1)
    found = critics_2d.train(members=2, steps=300, further=5)
    axis = torch.linspace(0, 10, SIDE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inside = ((x - CENTRE).square() + (y - CENTRE).square()).sqrt() < 2 * SIGMA
    exact = torch.distributions.Normal(CENTRE, SIGMA)
    gap = (found.log_p - exact.log_prob(x) - exact.log_prob(y))[inside].abs()
    assert gap.mean() < 0.3, gap.mean()
    assert found.critics.shape == (2, SIDE, SIDE) and 0 <= found.critics.min() <= found.critics.max() <= 1
    assert not torch.equal(found.critics[0], found.critics[1])


def test_a_picture_is_written(tmp_path, capsys):
    path = tmp_path / "toy.png"
    assert critics_2d.main(["--out", str(path), "--steps", "2", "--further", "2", "--members", "2"]) == 0
    assert path.read_bytes().startswith(b"\x89PNG") and capsys.readouterr().out.strip() == str(path)
    again = tmp_path / "again.png"
    critics_2d.main(["--out", str(again), "--steps", "2", "--further", "2", "--members", "2"])
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.gif"], "does not end in .png or .svg"),
        (["--out", "x.png", "--members", "1"], "--members 1 is not a whole number from 2 to 100"),
        (["--out", "x.png", "--members", "1000000"], "--members 1000000"),
        (["--out", "x.png", "--steps", "0"], "--steps 0"),
        (["--out", "x.png", "--seed", "9" * 23], "--seed 9999"),
        (["--out", "x.png", "--seed", "-1"], "--seed -1"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, capsys):
    assert critics_2d.main(arguments) == 2
    assert message in capsys.readouterr().err
