"""A checkpoint of a stranger: dense tensors with names, or one line, and no more memory than the file has bytes."""

import zipfile

import pytest
import torch

from oodgen.errors import UserError
from oodgen.training.checkpoints import read_checkpoint, save_weights

WEIGHTS = torch.arange(6.0).view(2, 3)


def _compress(path):
    with zipfile.ZipFile(path) as archive:
        parts = {item.filename: archive.read(item) for item in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content + bytes(2**20 * name.endswith("data/0")))


@pytest.mark.parametrize(
    ("state", "change", "words"),
    [
        ({1: WEIGHTS}, None, "is no checkpoint of oodgen"),
        ({"w": WEIGHTS.to_sparse()}, None, "is no checkpoint of oodgen"),
        ({"w": WEIGHTS.to("meta")}, None, "is no checkpoint of oodgen"),
        ({"w": "text"}, None, "is no checkpoint of oodgen"),
        ([WEIGHTS], None, "is no checkpoint of oodgen"),
        ({"w": WEIGHTS}, _compress, "is damaged or no checkpoint"),
        ({"w": WEIGHTS}, lambda path: (path.unlink(), path.mkdir()), "cannot read"),
    ],
)
def test_others_are_refused(tmp_path, state, change, words):
    path = tmp_path / "last.ckpt"
    save_weights(path, {"state_dict": {"w": WEIGHTS}})
    assert read_checkpoint(path)["state_dict"]["w"].equal(WEIGHTS)
    torch.save({"state_dict": state}, path)
    if change is not None:
        change(path)
    with pytest.raises(UserError, match=words) as found:
        read_checkpoint(path)
    assert str(path) in str(found.value) and "\n" not in str(found.value)
