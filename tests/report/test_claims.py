"""Claims of others: the shipped list, what is refused, and where sources contradict each other."""

import json
from pathlib import Path

import pytest

from oodgen.errors import UserError
from oodgen.report.claims import Claim, contradictions, read_claims

SHIPPED = Path(__file__).parents[2] / "experiments" / "beyond" / "claims.yaml"
SOURCE = {"authors": "A et al.", "title": "T", "venue": "V", "year": 2020}
CLAIM = {"method": "M", "in": "cifar10", "out": "svhn", "metric": "auroc", "value": 0.9, "source": "a", "note": "n"}


def write(path, claims, sources=None):
    path.write_text(json.dumps({"sources": sources or {"a": SOURCE}, "claims": claims}))
    return path


def test_the_shipped_claims_name_their_sources_and_their_contradictions():
    claims = read_claims(SHIPPED)
    assert Claim("DoSE", "cifar10", "cifar100", "auroc", 0.571, "Morningstar et al. 2021", "Glow") in claims
    (waic,) = [line for line in contradictions(claims) if line.startswith("WAIC, cifar10 against svhn: ")]
    assert waic.index("0.146 (Ran et al. 2021") < waic.index("0.628 (Li et al. 2022") < waic.index("1.000 (Choi")
    conf = SHIPPED.parents[2] / "conf" / "dataset"
    named = {path.stem for path in conf.glob("*.yaml")}
    assert {name for claim in claims for name in (claim.inlier, claim.out)} <= named


def test_values_that_lie_close_do_not_contradict_each_other():
    claims = [Claim("M", "i", "o", "auroc", value, "S 2020", "") for value in (0.9, 0.94)]
    assert contradictions(claims) == []


@pytest.mark.parametrize(
    ("claims", "sources", "word"),
    [
        ([CLAIM | {"source": "b"}, CLAIM], None, "b is not among the sources"),
        ([CLAIM | {"value": 95}], None, "between 0 and 1"),
        ([CLAIM | {"metric": "auc"}], None, "not a known metric"),
        ([CLAIM, CLAIM], None, "is listed twice"),
        ([{**CLAIM, "seed": 1}], None, "a claim has the keys"),
        ([CLAIM], {"a": SOURCE, "b": SOURCE}, "no claim cites b"),
        ([CLAIM], {"a": SOURCE | {"venue": ""}}, "lacks venue"),
        ([CLAIM], {"a": SOURCE | {"year": "2020"}}, "year as a number"),
        ("text", None, "not a valid list of claims"),
    ],
)
def test_a_list_that_says_too_little_or_too_much_is_refused(tmp_path, claims, sources, word):
    with pytest.raises(UserError, match=word):
        read_claims(write(tmp_path / "claims.yaml", claims, sources))
