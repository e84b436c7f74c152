"""The overrides of a run's command that distinguish it from its experiment."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from oodgen.runs import locations

__all__ = ["requested_overrides"]

# Overrides that do not make another experiment: names, places, speed, and what has its own column in the tables.
INCIDENTAL = re.compile(
    r"experiment|sweep|name|notes|seed|runs|retrain|smoke|snapshots|data\.root|trainer\.max_epochs|device\.(?!precision).*|(logger|hydra)\b.*"
)


def requested_overrides(records: Iterable[Mapping[str, Any]]) -> tuple[str, ...] | None:
    """The overrides that all finished runs share and that are not incidental, sorted; None if a record has no
    overrides.

    Runs of one config may differ in overrides that repeat its defaults.
    """
    lists = [record.get("overrides") for record in records]
    overrides = [{str(override).lstrip("+") for override in known} for known in lists if known is not None]
    if not overrides or len(overrides) < len(lists):
        return None
    shared = set.intersection(*overrides)
    return tuple(sorted(locations.without_directories(override) for override in shared if not _incidental(override)))


def _incidental(override: str) -> bool:
    key = override.lstrip("~").partition("=")[0]
    return override == "checkpoint=last" or INCIDENTAL.fullmatch(key) is not None
