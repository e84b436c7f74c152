"""`python -m oodgen.run +experiment=NAME [key=value ...]`: train, score and report one experiment, or with -m a grid.

This module imports neither torch nor Lightning, so that help, completion and the parent of a sweep start at once.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from oodgen import record
from oodgen.errors import UserError
from oodgen.paths import config_dir

__all__ = ["main"]

log = logging.getLogger(__name__)


def _folder(*, _root_: DictConfig) -> str:
    parts = {key: _root_._get_node(key) for key in _root_ if key != "hydra"}
    plain = OmegaConf.create({key: value for key, value in parts.items()})
    resolved = OmegaConf.to_container(plain, resolve=True)
    return record.folder_of(resolved)  # type: ignore[arg-type]


OmegaConf.register_new_resolver("folder", _folder, replace=True)


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="run")
def _job(config: DictConfig) -> None:
    from oodgen import cell

    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        print(cell.run(config, folder), flush=True)
    except UserError as error:
        log.error("%s", error)
        # a plain exception with one argument survives the way back from a worker of any launcher
        raise UserError(str(error)) from None
    except Exception as error:
        log.exception("unexpected error")
        if _asked_for_traceback():
            raise
        raise UserError(f"{type(error).__name__}: {_first_line(error)} (the traceback is in {folder}/log.txt)") from None


def main() -> None:
    """Run Hydra; an error is one line on stderr and exit code 2, with a traceback only if HYDRA_FULL_ERROR is set."""
    asked = _asked_for_traceback()
    os.environ["OODGEN_TRACEBACK"] = "1" if asked else ""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra would print its own shortened traceback and exit with 1
    try:
        _job()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if asked:
            raise
        print(f"oodgen: {_first_line(error)}", file=sys.stderr)
        sys.exit(2)


def _asked_for_traceback() -> bool:
    asked = os.environ.get("OODGEN_TRACEBACK")
    return bool(os.environ.get("HYDRA_FULL_ERROR") if asked is None else asked)


def _first_line(error: BaseException) -> str:
    """An error as one line; Hydra spreads "could not find" and its list of choices over several."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith("set HYDRA_FULL_ERROR")) or type(error).__name__


if __name__ == "__main__":
    main()
