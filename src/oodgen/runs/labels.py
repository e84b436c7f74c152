"""Keys of scores in configs, which are identifiers, and their labels in tables, results and records.

Hydra's command line accepts identifiers only: `llr_1_mode` is the key of the label `llr>1 mode`, `l_below_2` of `l<2`,
`control_mean` of `control:mean`. Any other key is its own label.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["DEFAULTS", "default_score", "key", "key_and_label", "label", "with_labels"]

# The first of these that a run has is its default score, so that nobody chooses it with OOD data in hand.
DEFAULTS = ("evidence", "llr_ada", "llr_rule", "waic", "likelihood_ratio", "l>0")
# a level or the name of a score that combines levels, then the words of a variant
LEVELS = re.compile(r"(llr_ada|llr_rule|l_below_\d+|(?:l|llr)_(?:\d+|k)(?:_below_\d+)?)(?:_(\w+))?")


def label(name: str) -> str:
    """The label of a score's key; labels are returned unchanged."""
    if name.startswith("control_"):
        return name.replace("_", ":", 1)
    if (found := LEVELS.fullmatch(name)) is None:
        return name
    level = re.sub(r"^(l|llr)_(?=\d|k)", r"\1>", found[1].replace("_below_", "<"))
    return f"{level} {found[2].replace('_', ' ')}" if found[2] else level


def key(text: str) -> str:
    """The key of a score's label; keys are returned unchanged."""
    made = re.sub("[> :]", "_", text.replace("<", "_below_"))
    return made if label(made) == text else text


def default_score(labels: Iterable[str]) -> str:
    """The score of a run that a detector uses, its page names first and tables compare: the first of DEFAULTS among
    its scores, else its first one that is no control; "" if there is none.
    """
    found = [name for name in labels if not name.startswith("control:")]
    return next((name for name in DEFAULTS if name in found), next(iter(found), ""))


def key_and_label(text: str) -> str:
    """A score in messages: its key, and its label if that differs."""
    return key(text) if key(text) == label(text) else f"{key(text)} ({label(text)})"


def with_labels(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with labels as keys of scores, as it is recorded and hashed."""
    groups = {
        group: {label(str(key)): value for key, value in config[group].items()}
        for group in ("scores", "controls", "means", "oracle")
        if isinstance(config.get(group), Mapping)
    }
    oracle = {
        name: [label(score) if isinstance(score, str) else score for score in among]
        if isinstance(among, list)
        else among
        for name, among in groups.get("oracle", {}).items()
    }
    return {**config, **groups, **({"oracle": oracle} if oracle else {})}
