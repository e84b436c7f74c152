"""The command `oodgen` (or `python -m oodgen`): `oodgen TOOL ARGUMENTS` runs a tool.

Only the module of the tool is imported, so that `oodgen --help` takes no longer than starting Python.
"""

import difflib
import os
import sys
from importlib import import_module
from typing import NoReturn

from oodgen import __version__

__all__ = ["main", "moved"]

TOOLS = {
    "run": ("oodgen.run", "train, score and report an experiment, or a grid of them"),
    "score": ("oodgen.score", "a score, a p-value and a verdict for each image file"),
    "report": ("oodgen.report.__main__", "tables of all finished runs, beside the papers' numbers"),
    "data": ("oodgen.data.__main__", "list, fetch, prepare and verify data sets"),
    "bench": ("oodgen.bench.__main__", "benchmark this machine"),
    "workspace": ("oodgen.report.wandb_workspace", "the Weights & Biases workspace of a project"),
    "simple-set": ("oodgen.papers.simple_set", "choose the simple set of BPVAE"),
    "reconstructions": ("oodgen.papers.reconstructions", "the same images as several runs reconstruct them"),
    "layer-correlation": ("oodgen.papers.layer_correlation", "do two hierarchies' layers see the same features?"),
    "critics-2d": ("oodgen.papers.critics_2d", "figure 2 of generative ensembles: critics and a flow in the plane"),
}
COMPLETION = ("-sc", "--shell-completion")


def main(program: str = "oodgen") -> int:
    """Run the tool named on the command line; return the exit code.

    Arguments:
        program: The command as typed before the tool's name.
    """
    _, *words = sys.argv
    if not words or words[0] in ("-h", "--help"):
        print(_help(program))
        return 0
    if words[0] == "--version":
        print(f"oodgen {__version__}")
        return 0
    if words[0] in COMPLETION:
        return _complete(words)
    tool, *arguments = words
    if tool not in TOOLS:
        print(f"oodgen: {_unknown(program, tool)}", file=sys.stderr)
        return 2
    # the program's name for argparse, Hydra and the record of a run
    sys.argv = [program if COMPLETION[0] in arguments else f"{program} {tool}", *arguments]
    return import_module(TOOLS[tool][0]).main()


def moved(former: str, tool: str) -> NoReturn:
    """Run a tool by its module name of version 0.1, after printing its new command."""
    print(f"oodgen: python -m oodgen.{former} is now `oodgen {tool}`", file=sys.stderr)
    sys.argv[1:1] = [tool]
    sys.exit(main())


def _help(program: str) -> str:
    width = max(map(len, TOOLS))
    lines = (f"  {name:{width}}  {about}" for name, (_, about) in TOOLS.items())
    return "\n".join(
        [
            f"usage: {program} TOOL ...",
            "\nDeep generative models for out-of-distribution detection: trained, scored and compared.\n",
            *lines,
            f"\n`{program} TOOL --help` prints the help of a tool, `{program} --version` the version.",
        ]
    )


def _unknown(program: str, word: str) -> str:
    if "=" in word or word.startswith(("+", "~")):
        return f"a tool is missing: {program} run {word} ..."
    near = difflib.get_close_matches(word, TOOLS, n=1)
    return f"unknown tool {word!r}; " + (f"did you mean {near[0]}?" if near else f"available: {', '.join(TOOLS)}")


def _complete(words: list[str]) -> int:
    """Shell completion of the tools' names, and by Hydra of the options of `oodgen run`."""
    line = os.environ.get("COMP_LINE", "")
    program, _, rest = line.partition(" ")
    tool, space, options = rest.lstrip().partition(" ")
    if line and not space:
        print(" ".join(TOOLS))
        return 0
    if line and tool != "run":
        return 0
    os.environ["COMP_LINE"] = f"{program} {options}"  # as if `run` were the whole program
    sys.argv[1:] = words
    return import_module(TOOLS["run"][0]).main()


if __name__ == "__main__":
    sys.exit(main("python -m oodgen"))
