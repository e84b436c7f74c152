"""Scores of an ensemble against brute force over its members."""

import math
from functools import partial

import pytest
import torch

from oodgen.errors import UserError
from oodgen.evaluation import evaluate
from oodgen.scores.ensemble import BestMember, mean, member, member_scores, variance, waic
from oodgen.scores.likelihood import bound, importance, kl, statistic
from oodgen.scores.ratio import input_complexity, llr

M, N = 5, 7
DRAW = torch.Generator().manual_seed(0)
EVIDENCE = {
    "members/iw": -80 + 3 * torch.randn(M, N, generator=DRAW),
    "members/l": -90 + 3 * torch.randn(M, 2, N, generator=DRAW),
    "members/log_px": -70 + torch.randn(M, 2, N, generator=DRAW),
    "members/kl": torch.rand(M, 2, N, generator=DRAW),
    "critics/d": torch.randn(M, N, generator=DRAW),
    "image/png_bits": torch.rand(N, generator=DRAW),
}
log_p = partial(importance, probe="members")


def test_waic_is_its_definition():
    found = waic(EVIDENCE, log_p)
    for n in range(N):
        values = [EVIDENCE["members/iw"][m, n].item() for m in range(M)]
        average = math.fsum(values) / M
        spread = math.fsum((value - average) ** 2 for value in values) / M
        assert found[n].item() == pytest.approx(-(average - spread), rel=1e-9)
        assert mean(EVIDENCE, log_p)[n].item() == pytest.approx(-average, rel=1e-9)
        assert variance(EVIDENCE, log_p)[n].item() == pytest.approx(spread, rel=1e-9)


def test_members_that_disagree_are_suspect_and_a_shift_of_all_is_no_disagreement():
    same = {"members/iw": torch.full((M, N), -80.0)}
    assert torch.equal(variance(same, log_p), torch.zeros(N, dtype=torch.float64))
    torch.testing.assert_close(waic(same, log_p), torch.full((N,), 80.0, dtype=torch.float64))
    apart = {"members/iw": same["members/iw"] + torch.tensor([-2.0, -1, 0, 1, 2]).unsqueeze(1)}
    torch.testing.assert_close(waic(apart, log_p), torch.full((N,), 82.0, dtype=torch.float64))
    # a variance of nats in float32 far from zero would be rounding alone
    far = {"members/iw": apart["members/iw"] - 2.0**20}
    torch.testing.assert_close(variance(far, log_p), variance(apart, log_p))


def test_any_score_of_a_single_model_is_asked_of_each_member():
    for score, expected in (
        (partial(bound, k=1, probe="members"), -EVIDENCE["members/l"][:, 1]),
        (partial(kl, layer=2, probe="members"), EVIDENCE["members/kl"][:, 1]),
        (partial(llr, k=1, importance=True, probe="members"), EVIDENCE["members/iw"] - EVIDENCE["members/l"][:, 1]),
        (
            partial(input_complexity, probe="members"),
            -EVIDENCE["members/l"][:, 0] / math.log(2) - EVIDENCE["image/png_bits"],
        ),
    ):
        torch.testing.assert_close(member_scores(EVIDENCE, score), expected.double())
        for i in range(1, M + 1):
            torch.testing.assert_close(member(EVIDENCE, score, i), expected[i - 1].double())


def test_critics_are_scored_by_their_variance():
    d = partial(statistic, name="d", probe="critics")
    expected = (EVIDENCE["critics/d"].double() - EVIDENCE["critics/d"].double().mean(0)).square().mean(0)
    torch.testing.assert_close(variance(EVIDENCE, d, "critics"), expected)


def test_the_best_member_is_chosen_on_validation_and_stays():
    better = EVIDENCE["members/iw"].clone()
    better[3] += 20
    rule = BestMember(log_p).fit({"members/iw": better})
    assert rule.best == 4
    assert torch.equal(rule(EVIDENCE), -EVIDENCE["members/iw"][3].double())
    with pytest.raises(ValueError, match="fitted"):
        BestMember(log_p)(EVIDENCE)


@pytest.mark.parametrize("i", [0, 6, -1])
def test_a_member_that_is_not_there(i):
    with pytest.raises(UserError, match=rf"score other needs member={i} of 1\.\.5.*remove the score, or"):
        evaluate.compute_scores({"other": partial(member, score=log_p, i=i)}, EVIDENCE)


def test_without_member_evidence():
    with pytest.raises(UserError, match=r"score waic needs 'members/\.\.\.'.*available: bounds/iw"):
        evaluate.compute_scores({"waic": partial(waic, score=log_p)}, {"bounds/iw": torch.zeros(3)})
