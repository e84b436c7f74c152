"""Where the files that belong to the program lie."""

from pathlib import Path

__all__ = ["config_dir"]


def config_dir() -> Path:
    """The folder of run.yaml: `conf` at the root of a checkout, or inside the package of an installed wheel."""
    here = Path(__file__).resolve()
    candidates = (here.parent / "conf", here.parents[2] / "conf")
    return next((folder for folder in candidates if (folder / "run.yaml").exists()), candidates[0])
