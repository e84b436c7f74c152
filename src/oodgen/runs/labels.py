"""What tables, results and kept runs call a score whose key in a config is an identifier.

Hydra's command line names identifiers alone, readers know $L^{>1}$ and $LLR^{>1}$: `llr_1_mode` is the key of
`llr>1 mode`, `l_below_2` of `l<2`, `control_mean` of `control:mean`. Any other key is its own label.
"""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["key", "label", "labelled", "named"]

# a level, or one of the scores that choose one; then in what a variant differs
LEVELS = re.compile(r"(llr_ada|llr_rule|l_below_\d+|(?:l|llr)_(?:\d+|k)(?:_below_\d+)?)(?:_(\w+))?")


def label(name: str) -> str:
    """The label of a score's key; a label's own is itself."""
    if name.startswith("control_"):
        return name.replace("_", ":", 1)
    if (found := LEVELS.fullmatch(name)) is None:
        return name
    level = re.sub(r"^(l|llr)_(?=\d|k)", r"\1>", found[1].replace("_below_", "<"))
    return f"{level} {found[2].replace('_', ' ')}" if found[2] else level


def key(text: str) -> str:
    """The key of a score's label; a key's own is itself."""
    made = re.sub("[> :]", "_", text.replace("<", "_below_"))
    return made if label(made) == text else text


def named(text: str) -> str:
    """A score for a message: its key, and its label where that is another word."""
    return key(text) if key(text) == label(text) else f"{key(text)} ({label(text)})"


def labelled(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config whose scores have labels for keys, by which runs are recorded and named."""
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
