"""The command `oodgen`, its former addresses, and what `import oodgen` offers without torch."""

import os
import subprocess
import sys

import pytest

import oodgen
from oodgen.__main__ import TOOLS

HEAVY = ("hydra", "torch", "numpy", "pytorch_lightning")


def call(*words, module="oodgen", allowed=(), **environment):
    """What a command prints on stdout and stderr, and its exit code; it may import no heavy package but `allowed`."""
    program = f"import runpy, sys; sys.argv = {['oodgen', *words]!r}\n"
    program += f"try: runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    program += f"finally: assert not {set(HEAVY) - set(allowed)} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert "AssertionError" not in done.stderr, done.stderr
    return done.stdout, done.stderr, done.returncode


def test_help_lists_every_tool_and_version_is_ours():
    out, err, code = call("--help")
    assert (err, code) == ("", 0) and out.startswith("usage: python -m oodgen TOOL")
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == list(TOOLS)
    assert call("--version") == (f"oodgen {oodgen.__version__}\n", "", 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "unknown tool 'rnu'; did you mean run?"),
        (["+experiment=quickstart"], "a tool is missing: python -m oodgen run +experiment=quickstart ..."),
    ],
)
def test_a_tool_that_is_not_there_is_one_line(words, said):
    assert call(*words) == ("", f"oodgen: {said}\n", 2)


def test_the_help_of_a_tool_is_its_own_and_names_the_command():
    out, _, code = call("score", "--help")
    assert code == 0 and out.startswith("usage: python -m oodgen score ") and "--false-alarm" in out
    out, _, code = call("run", "--help", allowed=["hydra"])
    assert code == 0 and "  python -m oodgen run +experiment=quickstart\n" in out
    assert "experiment: cifar10_bpvae," in out and "dataset: adversarial, " in out


def test_all_that_follows_run_is_hydras():
    out, err, code = call("run", "+experiment=quickstart", "seed=3", "--cfg", "job", allowed=["hydra"])
    assert (err, code) == ("", 0) and "\nseed: 3\n" in out and "\nname: quickstart\n" in out


def test_former_addresses_work_and_tell_the_new_one():
    out, err, code = call("--help", module="oodgen.compare", allowed=["numpy"])
    assert err == "oodgen: python -m oodgen.compare is now `oodgen reconstructions`\n"
    assert code == 0 and out.startswith("usage: oodgen reconstructions ")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("oodgen s", ["score", "simple-set"]),
        ("oodgen run method=bp", ["method=bpvae"]),
        ("oodgen run trainer.max_e", ["trainer.max_epochs="]),
        ("oodgen score RU", []),
    ],
)
def test_the_shell_completes(line, offered):
    out, _, code = call("-sc", "query=bash", allowed=["hydra"], COMP_LINE=line, COMP_POINT=str(len(line)))
    word = line.split()[-1]
    assert (code, [found for found in out.split() if found.startswith(word)]) == (0, offered)


def test_import_offers_the_public_names_without_torch():
    program = "import sys, oodgen; print(set(oodgen.__all__) <= set(dir(oodgen)), "
    program += f"set({HEAVY}) & set(sys.modules), oodgen.metrics.auroc.__name__, oodgen.Detector.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True set() auroc Detector\n", done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        oodgen.nothing  # noqa: B018
    with pytest.raises(oodgen.UserError, match="there is no run"):
        oodgen.load("nothing")
