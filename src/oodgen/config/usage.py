"""The help of `oodgen run`, read off the folders of configs; Hydra would compose them all, at twice the cost."""

from oodgen.config import plugins
from oodgen.runs.locations import config_dir

__all__ = ["usage"]

TEXT = """\
Train, score and report an experiment; the same command resumes it, or finds it finished.

  {program} +experiment=quickstart
  {program} +experiment=fashion_mnist_llr_cpu seed=1 method.optimizer.lr=3e-4
  {program} -m +experiment=quickstart seed=0,1,2 hydra/launcher=joblib

Choices (group=choice, +experiment=choice, and the roles that run.yaml gives to dataset, probe and score):

{choices}

Options (key=value) of a command:   {program} +experiment=quickstart --cfg job
Try whether it runs, in seconds:    smoke=true
Flags, as --multirun and --info:    {program} --hydra-help
Data sets and how to get them:      python -m oodgen.data
Tables over runs and seeds:         python -m oodgen.report runs/"""


def usage(program: str) -> str:
    """The help, with the choices of every group of configs, those of admitted plug-ins among them.

    Arguments:
        program: What the user typed to start it.
    """
    groups: dict[str, list[str]] = {}
    for folder in (config_dir(), *plugins.folders().values()):
        for path in folder.glob("*/**/*.yaml"):
            groups.setdefault(path.parent.relative_to(folder).as_posix(), []).append(path.stem)
    choices = "\n".join(f"{group}: {', '.join(sorted(names))}" for group, names in sorted(groups.items()))
    return TEXT.format(program=program, choices=choices)
