"""Which names may become those of files, and where a log goes."""

import logging

import pytest

from oodgen.errors import UserError
from oodgen.runs.files import LogFile, as_name, check_name

REFUSED = ["", ".", "..", ".hidden", "../../../escape", "a/b", "/a", "a\\b", "-x", "=x", "a\nb", "a\x1b[31m", "a,b"]


@pytest.mark.parametrize("name", [*REFUSED, "x" * 101, "a'b", 'a"b', "caf\udce9", "a\x00", "a\u202eb"])
def test_a_name_is_one_of_one_file(name):
    with pytest.raises(UserError, match="must be a single name"):
        check_name(name, "name")
    assert check_name(as_name(name), "name")


@pytest.mark.parametrize("name", ["quickstart", "1", "l>0", "llr>1 mode", "control:mean", "fotos-12ab", "图片 (1) #7"])
def test_other_names_stay_as_they_are(name):
    assert check_name(name, "name") == as_name(name) == name


def test_a_log_is_not_written_through_a_link(tmp_path):
    (tmp_path / "outside").write_text("theirs")
    (tmp_path / "log.txt").symlink_to(tmp_path / "outside")
    handler = LogFile(tmp_path / "log.txt", delay=True)
    handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "ours", None, None))
    handler.close()
    assert ((tmp_path / "outside").read_text(), (tmp_path / "log.txt").read_text()) == ("theirs", "ours\n")
