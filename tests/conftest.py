"""What the tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def data_root() -> Path:
    """The root of real data, read only; the test is skipped where OODGEN_DATA names none."""
    if "OODGEN_DATA" not in os.environ:
        pytest.skip("OODGEN_DATA names no data root")
    return Path(os.environ["OODGEN_DATA"])
