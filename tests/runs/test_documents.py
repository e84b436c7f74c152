"""YAML and JSON of strangers: data within limits, or one line."""

import pytest

from oodgen.errors import UserError
from oodgen.runs.documents import load_json, load_yaml

BOMB = "a: &a [x]\n" + "".join(f"{c}: &{c} [{', '.join(9 * ['*' + chr(ord(c) - 1)])}]\n" for c in "bcdefghij")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "it holds the alias *a"),
        ("a: &a [*a]", "it holds the alias *a"),
        *((start * 5000, "more than 40 levels deep") for start in ("[", "- ", "? ", "{a: ")),
        ("a: 1\n" * 2**17, "more than 262,144 bytes"),
        ("a: 0x" + "f" * 5000, "a number of 5,002 digits"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("!!set {a, b}", "could not determine a constructor"),
        ("a: [", "while parsing"),
        ("a: caf\udce9", "can't decode byte"),
    ],
)
def test_yaml_that_is_no_plain_data_is_one_line(tmp_path, text, why):
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match="cannot read ") as found:
        load_yaml(path)
    assert why in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 10**5, "more than 40 levels deep"),
        ("[" * 41 + "]" * 41, "more than 40 levels deep"),
        (" " * 2**19, "more than 262,144 bytes"),
        ("9" * 5000, "a number of 5,000 digits"),
        ("{", "Expecting"),
    ],
)
def test_so_is_json(tmp_path, text, why):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="cannot read ") as found:
        load_json(tmp_path / "x.json")
    assert why in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("load", [load_json, load_yaml])
def test_what_has_no_end_is_not_begun(tmp_path, load):
    places = {
        "/dev/zero": "it is not a regular file",
        tmp_path: "it is not a regular file",
        tmp_path / "x": "no such file",
    }
    for path, why in places.items():
        with pytest.raises(UserError, match=why):
            load(type(tmp_path)(path))


def test_plain_data_are_read_as_they_are(tmp_path):
    (tmp_path / "x").write_text("{a: [1, -2.5e-05, true, null, 'x'], b: 2020-01-01, '1': {}}")
    assert load_yaml(tmp_path / "x") == {"a": [1, -2.5e-05, True, None, "x"], "b": "2020-01-01", "1": {}}
    (tmp_path / "x").write_text("[" * 40 + "]" * 40)
    assert load_json(tmp_path / "x") == load_yaml(tmp_path / "x")
