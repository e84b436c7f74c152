"""Scores of logits against their definitions, of one classifier and of an ensemble; larger = more OOD."""

import math

import pytest
import torch

from oodgen.scores.classifier import entropy, logit, max_probability

LOGITS = torch.randn(4, 3, 10, generator=torch.Generator().manual_seed(0))


def test_one_classifier():
    p = LOGITS[0].double().exp() / LOGITS[0].double().exp().sum(0)
    evidence = {"classifier/logits": LOGITS[0]}
    torch.testing.assert_close(max_probability(evidence), -p.max(0).values)
    torch.testing.assert_close(entropy(evidence), -(p * p.log()).sum(0))
    assert torch.equal(logit(evidence), LOGITS[0, 0])


def test_an_ensemble_is_the_mean_of_its_members_probabilities_not_of_their_logits():
    p = torch.stack([m.double().exp() / m.double().exp().sum(0) for m in LOGITS]).mean(0)
    evidence = {"members/logits": LOGITS}
    torch.testing.assert_close(max_probability(evidence, "members"), -p.max(0).values)
    torch.testing.assert_close(entropy(evidence, "members"), -(p * p.log()).sum(0))
    # two sure members that disagree know nothing
    split = {"members/logits": torch.tensor([[[90.0], [0.0]], [[0.0], [90.0]]])}
    assert entropy(split, "members").item() == pytest.approx(math.log(2))
    assert max_probability(split, "members").item() == pytest.approx(-0.5)


def test_doubt_is_more_out_than_certainty_also_where_a_probability_is_zero():
    evidence = {"classifier/logits": torch.tensor([[900.0, 1.0, 0.0], [0.0, 0.0, 0.0]])}
    for score in (max_probability, entropy):
        sure, less, least = score(evidence)
        assert sure < less < least and not score(evidence).isnan().any()
