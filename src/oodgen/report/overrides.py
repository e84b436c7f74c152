"""What a command asked for: the overrides by which a run differs from the experiment that it names."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from oodgen.runs import locations

__all__ = ["asked"]

# What tells nobody that another experiment was made: who ran, where and how fast, and what a column of its own says.
# (Steps have none.)
INCIDENTAL = re.compile(
    r"experiment|sweep|name|notes|seed|runs|retrain|smoke|snapshots|data\.root|trainer\.max_epochs|device\.(?!precision).*|(logger|hydra)\b.*"
)


def asked(records: Iterable[Mapping[str, Any]]) -> tuple[str, ...] | None:
    """The overrides that finished runs share and that are not incidental, sorted; None where a record names none.

    Runs of one config may still differ in an override: it then asked for what was so anyway.
    """
    lists = [record.get("overrides") for record in records]
    given = [{str(override).lstrip("+") for override in known} for known in lists if known is not None]
    if not given or len(given) < len(lists):
        return None
    shared = set.intersection(*given)
    return tuple(sorted(locations.bare(override) for override in shared if not _incidental(override)))


def _incidental(override: str) -> bool:
    key = override.lstrip("~").partition("=")[0]
    return override == "checkpoint=last" or INCIDENTAL.fullmatch(key) is not None
