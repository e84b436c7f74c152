"""What is wrong in a stored run is said before torch is imported, whose import takes seconds."""

import subprocess
import sys

import pytest
from PIL import Image

BOMB = "a: &a [x]\n" + "".join(f"{c}: &{c} [{', '.join(9 * ['*' + chr(ord(c) - 1)])}]\n" for c in "bcdefghij")


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("config.yaml", BOMB, "holds the alias *a"),
        ("config.yaml", "[" * 5000, "more than 40 levels deep"),
        ("config.yaml", "a: 1\n" * 2**17, "more than 262,144 bytes"),
        ("config.yaml", "probes: {x: {_target_: os.mkdir}}", "is not the config of a run"),
        ("state.json", "[" * 5000, "state.json is damaged"),
    ],
)
def test_a_bomb_costs_no_import(tmp_path, file, text, words):
    folder, picture = tmp_path / "run", tmp_path / "picture.png"
    folder.mkdir()
    for name in ("state.json", "record.json"):
        (folder / name).write_text('{"state": "done", "why": null}')
    (folder / file).write_text(text)
    Image.new("L", (28, 28)).save(picture)
    script = "import sys; sys.modules['torch'] = None; from oodgen import score; sys.exit(score.main(sys.argv[1:]))"
    ended = subprocess.run([sys.executable, "-c", script, folder, picture], capture_output=True, text=True)
    assert ended.returncode == 2 and words in ended.stderr, ended.stderr
    assert ended.stderr.startswith("oodgen: ") and ended.stderr.count("\n") == 1
