"""The cells of a sweep of conf/sweep, to be shown before it is run. Imports no torch."""

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from oodgen.runs.locations import config_dir

__all__ = ["cells"]


def cells(words: Sequence[str]) -> list[list[str]]:
    """The overrides of each cell of a command that names +sweep=NAME, in the order in which Hydra runs them.

    Arguments:
        words: The command's overrides; of these, too, each choice makes cells, as seed=0,1 does.
    """
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        named = [word for word in words if word.startswith("+sweep=")]
        params = compose("run", named, return_hydra_config=True).hydra.sweeper.params or {}
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        overrides = parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *words])
        return [list(cell) for batch in BasicSweeper.split_arguments(overrides, None) for cell in batch]
