"""AUROCs that others print for other methods on the same pairs of sets: experiments/beyond/claims.yaml."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from oodgen.errors import UserError
from oodgen.report.tables import FRACTIONS, Entry, format_value
from oodgen.runs.documents import load_yaml

__all__ = ["Claim", "claimed", "contradictions", "read_claims"]

APART = 0.05  # values of one method, further apart than this, contradict each other


class Claim(NamedTuple):
    """One printed value of one method on one pair of sets.

    Arguments:
        source: Authors and year of the publication that prints it.
        value: A fraction.
    """

    method: str
    inlier: str
    out: str
    metric: str
    value: float
    source: str
    note: str


def read_claims(path: Path) -> list[Claim]:
    """The claims of a file with `sources` (authors, title, venue, year by key) and `claims`.

    Raises:
        UserError: the file is missing or not of that form.
    """
    try:
        content = load_yaml(path)
        sources = {key: _cite(about) for key, about in content["sources"].items()}
        found = [_claim(item, sources) for item in content["claims"]]
        if unused := sources.keys() - {item["source"] for item in content["claims"]}:
            raise ValueError(f"no claim cites {', '.join(sorted(unused))}")
        for claim in found:
            if found.count(claim) > 1:
                raise ValueError(f"{claim.method} on {claim.inlier} against {claim.out} is listed twice: {claim.value}")
        return found
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a valid list of claims ({type(error).__name__}: {reason})") from error


def _cite(about: Mapping[str, Any]) -> str:
    missing = [key for key in ("authors", "title", "venue", "year") if not about.get(key)]
    if missing or not isinstance(about["year"], int):
        raise ValueError(f"a source lacks {' or '.join(missing) or 'year as a number'}: {dict(about)}")
    return f"{about['authors']} {about['year']}"


def _claim(item: Mapping[str, Any], sources: Mapping[str, str]) -> Claim:
    keys = {"method", "in", "out", "metric", "value", "source", "note"}
    if item.keys() != keys:
        raise ValueError(f"a claim has the keys {', '.join(sorted(keys))}, not {', '.join(sorted(item))}")
    value = float(item["value"])
    if item["metric"] not in FRACTIONS or not 0 <= value <= 1:
        shown = f"{item['metric']}={value} of {item['method']}"
        raise ValueError(f"{shown} is not a known metric with a value between 0 and 1")
    if item["source"] not in sources:
        raise ValueError(f"{item['source']} is not among the sources")
    method, inlier, out, metric, note = (str(item[key]) for key in ("method", "in", "out", "metric", "note"))
    return Claim(method, inlier, out, metric, value, sources[item["source"]], note)


def claimed(claims: Sequence[Claim]) -> Entry:
    """The lowest and highest of the AUROCs claimed for one pair and the number of sources; all of them on hover."""
    values = [claim.value for claim in claims if claim.metric == "auroc"]
    if not values:
        return Entry("")
    low, high = format_value("auroc", min(values)), format_value("auroc", max(values))
    ordered = sorted((claim for claim in claims if claim.metric == "auroc"), key=lambda claim: claim.value)
    count = len({claim.source for claim in ordered})
    return Entry(f"{low if low == high else f'{low}–{high}'} ({count})", hint="; ".join(map(_say, ordered)))


def contradictions(claims: Iterable[Claim]) -> list[str]:
    """A sentence for each method and pair on which printed AUROCs lie far apart."""
    of: dict[tuple[str, str, str], list[Claim]] = {}
    for claim in claims:
        if claim.metric == "auroc":
            of.setdefault((claim.method, claim.inlier, claim.out), []).append(claim)
    found = []
    for (method, inlier, out), several in of.items():
        if max(c.value for c in several) - min(c.value for c in several) > APART:
            ordered = sorted(several, key=lambda claim: claim.value)
            said = ", ".join(f"{format_value('auroc', c.value)} ({c.source}, {c.note})" for c in ordered)
            found.append(f"{method}, {inlier} against {out}: {said}.")
    return found


def _say(claim: Claim) -> str:
    return f"{claim.method} {format_value('auroc', claim.value)} ({claim.source})"
