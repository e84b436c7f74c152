"""`python -m oodgen.run +experiment=NAME [key=value ...]`: train, score and report one experiment, or with -m a grid.

This module imports neither torch nor Lightning, so that help, completion, the parent process of a sweep and finished
runs start fast.
"""

import ctypes
import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser import overrides_parser, overrides_visitor
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import oodgen
from oodgen.config import composing, messages, plugins, schema
from oodgen.config.usage import usage
from oodgen.errors import UserError
from oodgen.runs import objective, record, results
from oodgen.runs.escape import terminal
from oodgen.runs.files import write_text
from oodgen.runs.invocation import program
from oodgen.runs.locations import config_dir

__all__ = ["main"]

log = logging.getLogger(__name__)
file_log = logging.getLogger("oodgen.file")  # conf/run.yaml: to log.txt only, since `main` prints it on the terminal

TRACEBACK = "OODGEN_TRACEBACK"  # environment: "1" if the user asked for tracebacks
SWEEP = "OODGEN_SWEEP"  # environment: the folder of this command's grid
CELLS = "OODGEN_CELLS"  # environment: the folder in which every run of this command records how it ended
COMMAND = "OODGEN_COMMAND"  # environment: the process id of this command


class Cell(NamedTuple):
    """How one run of a sweep ended: `why` is its error, or None."""

    overrides: list[str]
    why: str | None


def _folder(cell: bool = False, *, _root_: DictConfig) -> str:
    """The folder of a run, checked first so that a refused one leaves none; of a refused cell one below the sweep's."""
    # without loggers, which may interpolate the folder
    parts = {key: _root_._get_node(key) for key in _root_ if key not in ("hydra", "logger")}
    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(parts), resolve=True)
        if not cell:
            schema.check({"logger": {}} | resolved)
        folder = record.evaluation_folder(resolved)
    except Exception:
        if not cell:
            raise
        folder = f"{_root_.hydra.sweep.dir}/refused/{_root_.hydra.job.num}"  # where `_check` records why
    # a worker of a cluster may start in a folder of its own
    return str(Path(_root_.hydra.runtime.cwd, folder)) if cell else folder


def _gpus(most: int | None = None) -> int:
    """The GPUs that this process may use, or `most` if there are more."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = (
        len(list(Path("/dev").glob("nvidia[0-9]*"))) if visible is None else len(list(filter(None, visible.split(","))))
    )
    return count if most is None else min(most, count)


def _jobs() -> int:
    """The number of parallel jobs: one for each GPU; without GPUs two, or one on a single core."""
    return _gpus() or min(2, len(os.sched_getaffinity(0)))


class _PluginConfigs(SearchPathPlugin):
    """The `conf` folders of admitted packages, after ours."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for name, folder in plugins.folders().items():
            search_path.append(name, f"file://{folder}")


def _admit(arguments: Sequence[str]) -> None:
    """Admit the packages of plugins=[PACKAGE] before Hydra composes the config, which may use theirs."""
    for argument in arguments:
        if argument.lstrip("+").startswith("plugins="):
            try:
                names = OverridesParser.create().parse_override(argument).value()
            except HydraException:
                continue  # Hydra reports it
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise UserError(f"{argument} is not a list of packages; write plugins=[PACKAGE]")
            plugins.admit(names)


def _sweep(*, _root_: DictConfig) -> str:
    """The folder of this command's grid, which says what was asked for; each cell has its own."""
    os.environ[SWEEP] = os.environ.get(SWEEP) or f"{_root_.runs}/sweeps/{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    return os.environ[SWEEP]


if not __debug__:  # two asserts of Hydra's advance its parser, and `python -O` would leave them out
    source = Path(overrides_visitor.__file__)
    exec(compile(source.read_text(), source, "exec", optimize=0), vars(overrides_visitor))
    overrides_parser.HydraOverrideVisitor = overrides_visitor.HydraOverrideVisitor  # type: ignore[misc]
OmegaConf.register_new_resolver("sweep", _sweep, replace=True)
OmegaConf.register_new_resolver("folder", _folder, replace=True)
OmegaConf.register_new_resolver("jobs", _jobs, replace=True)
OmegaConf.register_new_resolver("gpus", _gpus, replace=True)
composing.compose_once()
Plugins.instance().register(_PluginConfigs)  # it has stored the launchers' own defaults, which ours replace
for name, launcher in OmegaConf.load(config_dir() / "launchers.yaml").items():
    ConfigStore.instance().store(group="hydra/launcher", name=str(name), node=launcher, provider="oodgen")


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="run")
def _job(config: DictConfig) -> float | None:
    logging.raiseExceptions = False  # report a full disk once, not at each line of log.txt
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    result, why = None, None
    try:
        if hydra_config.runtime.choices["hydra/launcher"] == "joblib":
            _end_with_command()
        os.chdir(hydra_config.runtime.cwd)
        _admit(hydra_config.overrides.task)  # workers on other machines do not have this command's environment
        if unsaid := sorted(set(map(str, config.plugins)) - set(plugins.admitted())):
            raise UserError(
                f"plugins={unsaid} is set in a config file; plug-ins can be enabled on the command line only"
            )
        _check(config, hydra_config)
        basic = hydra_config.mode == RunMode.RUN or hydra_config.sweeper._target_.endswith(".BasicSweeper")
        _cell(config, folder, list(hydra_config.overrides.task), not basic)
        result = _objective(config, folder, not basic)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        why = str(error)
        # the worst number, so that a sweeper goes on elsewhere; nan would stop Optuna
        result = -math.inf if "maximize" in str(hydra_config.sweeper.get("direction", "")) else math.inf
        if not isinstance(error, UserError):
            file_log.exception("unexpected error")
            why = f"{type(error).__name__}: {messages.one_line(error)} (the traceback is in {folder / 'log.txt'})"
        if any(folder.iterdir()):
            file_log.error("%s", why)
        else:  # refused before anything was done
            _remove_empty(folder)
        if hydra_config.mode == RunMode.MULTIRUN:
            log.error("failed: %s", why)
    cells = Path(os.environ.get(CELLS, ""))
    if os.environ.get(CELLS) and cells.is_dir():
        cell = Cell(list(hydra_config.overrides.task), why)
        number = hydra_config.job.num if hydra_config.mode == RunMode.MULTIRUN else 0
        write_text(cells / f"{number:06d}.json", json.dumps(cell))
    elif why is not None:  # on another machine: the launcher pickles it
        raise UserError(why)
    return result


def _check(config: DictConfig, hydra_config: HydraConf) -> None:
    """Check every option before anything is done; a cell of a grid that is refused is recorded."""
    try:
        resolved: Any = OmegaConf.to_container(config, resolve=True)
        schema.check(resolved)
        record.evaluation_folder(resolved)
    except (UserError, OmegaConfBaseException) as error:
        multirun = hydra_config.mode == RunMode.MULTIRUN
        with record.recorded_state(Path(hydra_config.runtime.output_dir)) if multirun else nullcontext():
            raise UserError(messages.one_line(error)) from error


def _objective(config: DictConfig, folder: Path, optimised: bool) -> float | None:
    """The objective of a finished run; None if there is no such number and no sweeper uses it."""
    try:
        return objective.value(folder, config.objective, config.checkpoint)
    except UserError:
        if optimised or objective.is_set(config.objective):
            raise
        return None


def _end_with_command() -> None:
    """Let a worker of joblib end with the command that started it; if that is killed, joblib leaves it running."""
    command = int(os.environ.get(COMMAND, 0))
    if sys.platform == "linux" and os.getpid() != command:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != command:  # it is gone already
            os._exit(1)


def _cell(config: DictConfig, folder: Path, overrides: list[str], optimised: bool) -> None:
    summary = None if config.retrain else _finished(folder)
    if summary is None:
        from oodgen import experiment

        experiment.run(config, folder, overrides, optimised)
        summary = _summary(folder)
    elif config.logger:
        log.warning("a finished evaluation is not logged again; delete %s to evaluate and log it", folder)
    print(summary, flush=True)


def _finished(folder: Path) -> str | None:
    """The summary of a finished evaluation; None if it is not finished, or its files are damaged."""
    if record.read_state(folder)["state"] != "done" or not (folder / "report.html").is_file():
        return None
    try:
        made = record.read_json(folder / "record.json").get("provenance", {})
        summary = _summary(folder)
    except UserError as error:
        log.warning("%s", error)
        return None
    old, new = made.get("commit"), record.commit()
    log.info("found finished in %s (of %s)", folder, made.get("date"))
    if old != new:
        log.warning("it was made by commit %s, this is %s; delete it to evaluate again", old or "?", new or "?")
    return summary


def _summary(folder: Path) -> str:
    from oodgen.report import render  # not needed to answer a mistake

    report = folder / "report.html"
    there = report.relative_to(Path.cwd()) if report.is_relative_to(Path.cwd()) else report
    return f"{render.terminal(results.read(folder / 'results.csv'))}\n\n{terminal(there)}"


def main() -> None:
    """Run Hydra; an error is one line on stderr and exit code 2, with a traceback only if HYDRA_FULL_ERROR is set.

    SIGINT and SIGTERM end with 130 and 143; the same command continues.
    """
    # first, since argparse takes no options after a flag among them
    given = sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    if "--version" in given:
        print(f"oodgen {oodgen.__version__} (Hydra {hydra.__version__})")
        return
    looks = not given or {"-h", "--help", "-c", "--cfg", "-i", "--info"} & {word.partition("=")[0] for word in given}
    if hasattr(signal, "SIGPIPE") and looks:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `... | head` closes the pipe early, which is no error
    sweeps = [argument for argument in sys.argv if argument.startswith("+sweep=")]
    if sweeps and ("," in sweeps[0] or any(argument.startswith("+experiment=") for argument in sys.argv)):
        # Hydra would run something else: one run of each sweep, or the experiment instead of those of the sweep
        _stop("+sweep cannot be combined with another +sweep or +experiment; use a command for each", 2)
    groups = [argument.partition("=")[0] for argument in sys.argv]
    if "+scale" in groups and "+experiment" in groups[groups.index("+scale") :]:
        # Hydra lets the later one win: the experiment would silently override the scale
        _stop("+scale overrides options of the experiment, so it comes after +experiment", 2)
    with_traceback = os.environ.get("HYDRA_FULL_ERROR", "") not in ("", "0")
    os.environ[TRACEBACK] = "1" if with_traceback else ""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints a shortened traceback and exits with 1
    signal.signal(signal.SIGTERM, _terminated)
    with nullcontext("") if looks else TemporaryDirectory(prefix="oodgen-") as folder:
        os.environ |= {CELLS: folder, COMMAND: str(os.getpid()), SWEEP: ""}
        try:
            _admit(given)
            if sweeps:
                _show_sweep(given)
            if not given or {"-h", "--help"} & set(given):
                print(usage(program()))
                return
            _job()
        except KeyboardInterrupt:
            _stop("interrupted; repeat the command to resume", 128 + signal.SIGINT)
        except SystemExit as error:
            if error.code == 128 + signal.SIGTERM:
                _stop("stopped by SIGTERM; repeat the command to resume", error.code)
            sys.exit(2 if error.code == 1 else error.code)  # 1 is Hydra's, after an error that it printed
        except Exception as error:
            if with_traceback:
                raise
            if looks or not any(Path(folder).iterdir()):
                _forget_sweep()
            _stop(messages.one_line(error), 2)
        cells = [Cell(*json.loads(path.read_text())) for path in (sorted(Path(folder).iterdir()) if folder else ())]
    failed = [cell for cell in cells if cell.why is not None]
    if failed and len(cells) == 1:
        _stop(str(failed[0].why), 2)
    if failed:
        common = set(cells[0].overrides).intersection(*(cell.overrides for cell in cells))
        differing = [[option for option in cell.overrides if option not in common] or cell.overrides for cell in failed]
        _stop(f"{len(failed)} of {len(cells)} cells failed: {'; '.join(map(' '.join, differing))}", 2)


def _forget_sweep() -> None:
    """Take away what Hydra noted of a grid before it saw that no cell of it can be composed."""
    if not os.environ[SWEEP]:
        return
    (Path(os.environ[SWEEP]) / "multirun.yaml").unlink(missing_ok=True)
    _remove_empty(Path(os.environ[SWEEP]))


def _remove_empty(folder: Path) -> None:
    """Remove an empty folder, and the two above it if they are empty then."""
    with suppress(OSError):
        for empty in (folder, folder.parent, folder.parent.parent):
            empty.rmdir()


def _show_sweep(given: Sequence[str]) -> None:
    """Of a sweep that is to be looked at only: print its cells, and leave the first one's overrides to Hydra."""
    arguments = get_args_parser().parse_args(given)
    if arguments.cfg or arguments.info or arguments.help:
        from oodgen.config.sweeps import cells

        found = cells(arguments.overrides)
        names = [" ".join(word for word in cell if not word.startswith("+sweep=")) for cell in found]
        below = "" if arguments.help else "; below is the first one's"
        print("\n".join([f"# {len(found)} cells{below}", *(f"#   {name}" for name in names), ""]))
        sys.argv[1:] = [*found[0], *(word for word in given if word not in arguments.overrides)]


def _terminated(*_: Any) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def _stop(message: str, code: int) -> NoReturn:
    print(f"oodgen: {terminal(message)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
