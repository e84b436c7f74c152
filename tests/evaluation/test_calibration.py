"""A stranger's calibration is what a run writes, or one line."""

import pytest
import torch
from safetensors.torch import save_file

from oodgen.errors import UserError
from oodgen.evaluation import calibration

EVIDENCE = {f"{part}/image/mean": torch.arange(3.0) for part in ("validation", "calibration")}
ROWS = "[[2], false, null, [[0.0, 0.0], [1.0, 2.0]]]"


def _read(folder, conversion="[[1, 28, 28], false, null]", **evidence):
    about = {"conversion": conversion, "inlier": '"photos"', "weights": '"0"'}
    save_file(EVIDENCE | evidence, folder / "calibration.safetensors", about)
    return calibration.read(folder)


@pytest.mark.parametrize(
    "conversion",
    [
        "[[1, 0, 0], false, null]",
        "[[1, -1, 28], false, null]",
        "[[1, 28.5, 28], false, null]",
        "[[true, 28, 28], false, null]",
        "[[1, 60000, 60000], false, null]",
        "[[1, 28], false, null]",
        '[["a", 28, 28], false, null]',
        '["128", false, null]',
        '[[3, 28, 28], "no", null]',
        "[[1, 28, 28], false, [1000000000, 1]]",
        "[[1, 28, 28], false, [-1, 0]]",
        "[[2], false, null, [[0.0], [1.0, 2.0]]]",
        "[[1, 28, 28], false, null, [[0.0, 0.0], [1.0, 2.0]]]",
        '"abc"',
        "[" * 10_000,
    ],
)
def test_a_conversion_that_no_run_has_is_damage(tmp_path, conversion):
    assert _read(tmp_path).conversion.shape == (1, 28, 28)
    assert _read(tmp_path, ROWS).conversion.scaling is not None
    with pytest.raises(UserError, match="is damaged"):
        _read(tmp_path, conversion)


@pytest.mark.parametrize(
    "value", [torch.tensor(1.0), torch.arange(4.0), torch.arange(3) > 1, torch.zeros(0)], ids=["0-d", "4", "bool", "0"]
)
def test_evidence_is_numbers_of_each_example(tmp_path, value):
    with pytest.raises(UserError, match="is damaged"):
        _read(tmp_path, **{"calibration/image/other": value})
