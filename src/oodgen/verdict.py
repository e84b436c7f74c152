"""What came out, in sentences that follow from the numbers."""

import math
from collections.abc import Mapping, Sequence

from oodgen import tables

__all__ = ["verdict"]


def verdict(cells: Sequence[tables.Cell], against: Sequence[str] = ()) -> list[str]:
    """What came out, in sentences: does plain likelihood fail, does the ratio, does a trivial statistic suffice.

    The score named first is fixed beforehand, so that naming it is not a choice made on OOD data: llr_ada, else
    llr_rule, where it was measured; else l>0, which is the method's own score where something was trained against.

    Arguments:
        cells: Means over seeds.
        against: What the model was trained against, as `groups.contrast` tells.
    """
    protocol = tables.main_protocol(cells)
    chosen = [c for c in cells if c.metric in ("auroc", "separation") and c.protocol == protocol and c.out != c.inlier]
    honest: dict[str, dict[str, float]] = {}
    controls: dict[str, tuple[float, str]] = {}
    for cell in chosen:
        if not cell.score.startswith("control:"):
            if cell.metric == "auroc" and not math.isnan(cell.value):
                honest.setdefault(cell.score, {})[cell.out] = cell.value
        elif cell.metric == "separation":
            what = tables.gloss(cell.score) or cell.score.removeprefix("control:")
            controls[cell.out] = max(controls.get(cell.out, (0.0, "")), (cell.value, what))
    if not honest:
        return ["No AUROC was measured."]
    plain, inlier = honest.get("l>0", {}), chosen[0].inlier
    fixed = next((s for s in ("llr_ada", "llr_rule", "l>0") if s in honest), "")
    rest = [score for score in honest if score != fixed]
    best = max(rest, key=lambda s: sum(honest[s].values()) / len(honest[s]), default="")
    name = fixed or best
    ours = honest[name]
    own = name == "l>0" and bool(against)
    sentences = [_own(ours, inlier, against) if own else _headline(plain, name, ours, inlier)]
    if not fixed and len(rest) > 1:
        sentences.append(f"{name} is named because it is the best of {len(rest)} scores here, known only afterwards.")
    if name == "l>0" and rest:
        others = f"best of the {len(rest)} other scores, known only afterwards" if len(rest) > 1 else "other score"
        sentences.append(f"The {others}, {best}, has AUROC {_span(honest[best])}.")
    if seen := [out for out in ours if out in against]:
        sentences.append(f"In training, and so no unknown {'sets' if len(seen) > 1 else 'set'}: {_and(seen)}.")
    weak = [f"{out} ({value:.3f})" for out, value in sorted(ours.items(), key=lambda p: p[1]) if value < 0.7]
    if weak:
        sentences.append(f"{name} stays below 0.7 on {_and(weak)}.")
    trivial = [(out, *controls[out]) for out in ours if out in controls and controls[out][0] >= 0.95]
    if trivial:
        words = _and([f"{out} ({what}, {value:.3f})" for out, value, what in trivial])
        tail = "this pair proves" if len(trivial) == 1 else "these pairs prove"
        sentences.append(
            f"One statistic of the image alone, without any model, separates {words}: {tail} nothing about semantics."
        )
    return sentences


def _own(ours: Mapping[str, float], inlier: str, against: Sequence[str]) -> str:
    """Of a model that was trained against something, whose likelihood is the method's own score."""
    unknown = {out: value for out, value in ours.items() if out not in against}
    first = next(iter(unknown or ours))
    rest = f"; over all unknown sets {_span(unknown)}" if len(unknown) > 1 else ""
    return (
        f"With {_and(list(dict.fromkeys(against)))} for contrast, the likelihood of the trained model (l>0), the "
        f"method's own score, tells {first} from {inlier} with AUROC {ours[first]:.3f}{rest}."
    )


def _headline(plain: Mapping[str, float], name: str, ours: Mapping[str, float], inlier: str) -> str:
    if not plain:
        out = min(ours, key=lambda o: ours[o])
        return f"{name} separates {inlier} from the out sets with AUROC {_span(ours)}; lowest on {out}."
    # the experiment's first out set is the one it is about; a worse failure elsewhere stands in the table
    first = next(iter(plain))
    out = first if plain[first] < 0.4 else min(plain, key=lambda o: plain[o])
    value, reached = plain[out], math.nan if name == "l>0" else ours.get(out, math.nan)
    ending = "" if math.isnan(reached) else f"; {name} reaches {reached:.3f}"
    ending += " and does not repair it" if reached < 0.7 else ""
    if value < 0.4:
        return (
            f"On {out} plain likelihood fails (AUROC {value:.3f}): "
            f"it ranks them as more likely than the test set of {inlier}{ending}."
        )
    if value < 0.6:
        return f"On {out} plain likelihood does no better than guessing (AUROC {value:.3f}){ending}."
    ending = "" if name == "l>0" else f"; {name} has {_span(ours)}"
    return f"Plain likelihood ranks every out set as less likely than {inlier}: AUROC {_span(plain)}{ending}."


def _span(values: Mapping[str, float]) -> str:
    low, high = min(values.values()), max(values.values())
    return f"{low:.3f}" if len(values) == 1 else f"{low:.3f} to {high:.3f}"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
