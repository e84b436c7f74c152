"""The help text of `oodgen run`, made from the files in conf without composing them, which would take twice as long."""

from oodgen.config import plugins
from oodgen.runs.locations import config_dir

__all__ = ["usage"]

TEXT = """\
Train, score and report an experiment; repeating a command resumes it, or reuses a finished run.

  {program} +experiment=quickstart
  {program} +experiment=fashion_mnist_llr_cpu seed=1 method.optimizer.lr=3e-4
  {program} -m +experiment=quickstart seed=0,1,2 hydra/launcher=joblib

Choices (group=choice, +experiment=choice; for dataset, probe and score group@place=choice as in run.yaml):

{choices}

Options (key=value) of a command:   {program} +experiment=quickstart --cfg job
Test run of a few seconds:          smoke=true
Flags, as --multirun and --info:    {program} --hydra-help
Data sets and how to get them:      python -m oodgen.data
Tables over runs and seeds:         python -m oodgen.report runs/"""


def usage(program: str) -> str:
    """The help text with the choices of every config group, including those of admitted plug-ins.

    Arguments:
        program: The command as typed.
    """
    groups: dict[str, list[str]] = {}
    for folder in (config_dir(), *plugins.folders().values()):
        for path in folder.glob("*/**/*.yaml"):
            groups.setdefault(path.parent.relative_to(folder).as_posix(), []).append(path.stem)
    choices = "\n".join(f"{group}: {', '.join(sorted(names))}" for group, names in sorted(groups.items()))
    return TEXT.format(program=program, choices=choices)
