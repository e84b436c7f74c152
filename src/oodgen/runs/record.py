"""The directory of a run: its name (a digest of the config), state, lock and provenance. Imports no torch."""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from oodgen.errors import Diverged, UserError
from oodgen.runs.documents import load_json
from oodgen.runs.files import check_name, write_text
from oodgen.runs.invocation import command
from oodgen.runs.labels import with_labels

__all__ = [
    "commit",
    "digest",
    "evaluation_folder",
    "fingerprint",
    "locked",
    "provenance",
    "read_json",
    "read_state",
    "recorded_state",
]

# Parts of the config that determine the weights.
SHAPING = ("model", "method", "trainer", "callbacks", "seed")
SHAPING_DATA = (
    *("inlier", "auxiliary", "negative", "seed", "smoke"),
    *("batch_size", "validation", "calibration", "grey", "size", "scale", "mutation"),
)
# Parts of the config that do not change the results.
IGNORED = ("runs", "logger", "retrain", "objective", "plugins")


def digest(value: Any) -> str:
    """A digest of a resolved config, twelve hexadecimal digits."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def fingerprint(config: Mapping[str, Any]) -> str:
    """The name of a training: a digest of the parts of a resolved config that determine the weights."""
    shaping = {key: config[key] for key in SHAPING}
    # missing options are left out, so that fingerprints of earlier configs stay the same
    shaping["data"] = {key: config["data"][key] for key in SHAPING_DATA if key in config["data"]}
    if not shaping["data"].get("mutation"):
        shaping["data"].pop("mutation", None)
    shaping["precision"] = config["device"]["precision"]
    return digest(shaping)


def evaluation_folder(config: Mapping[str, Any]) -> str:
    """The directory of an evaluation: one for each resolved config, apart from where and how it runs.

    Raises:
        UserError: the config's name is not that of one folder.
    """
    data = {key: value for key, value in config["data"].items() if key != "root"}
    named = {key: value for key, value in with_labels(config).items() if key not in IGNORED} | {"data": data}
    root = f"{config['runs']}/smoke" if config["smoke"] else config["runs"]
    name = "" if config["name"] is None else str(config["name"])  # name=1 is a number to Hydra
    return f"{root}/eval/{check_name(name, 'name')}/{digest(named)}"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run that contains an object.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        content = load_json(path)
    except UserError as error:
        if not path.is_file():
            raise UserError(f"{path} is missing; delete its folder and repeat the command") from error
        raise UserError(f"{path} is damaged; delete it and repeat the command") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged; delete it and repeat the command")
    return content


def read_state(folder: Path) -> dict[str, Any]:
    """The state of a run's directory: {"state": "new" | "running" | "done" | "failed" | "diverged", "why": ...}."""
    path = folder / "state.json"
    if not path.exists():
        return {"state": "new", "why": None}
    state = read_json(path)
    if not isinstance(state.get("state"), str) or not isinstance(state.get("why", 0), str | None):
        raise UserError(f"{path} is damaged; delete it and repeat the command")
    return state


@contextmanager
def recorded_state(folder: Path) -> Iterator[None]:
    """Record the state "running" in state.json, and on exit "done", "failed" or "diverged" with the reason.

    The state after a killed process is "running".
    """

    def write(state: str, why: str | None = None) -> None:
        write_text(folder / "state.json", json.dumps({"state": state, "why": why}))

    write("running")
    try:
        yield
    except BaseException as error:
        why = str(error) if isinstance(error, Exception) else "interrupted"
        with suppress(UserError):  # the disk may be full, which is then the error
            write("diverged" if isinstance(error, Diverged) else "failed", why or type(error).__name__)
        raise
    write("done")


@contextmanager
def locked(folder: Path, wait: bool) -> Iterator[None]:
    """Lock a run's directory for this process.

    Arguments:
        folder: The directory, created if missing.
        wait: Wait for another process instead of raising UserError.

    Raises:
        UserError: another process holds it and `wait` is false, it cannot be written, or it is or holds a link.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if link := next((path for path in (folder, *folder.iterdir()) if path.is_symlink()), None):
            raise UserError(f"{link} is a link, so that a run would write or delete elsewhere; remove it")
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if not wait:
                raise UserError(f"{folder} is in use by another process; wait for it to finish, or stop it") from None
            print(f"waiting for another process that is training {folder}", file=sys.stderr, flush=True)
            lock.acquire()
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror or error}; choose another with runs=DIR") from error
    try:
        yield
    finally:
        lock.release()


def provenance() -> dict[str, Any]:
    """The provenance of a result: commit, command, versions, hardware, system, date and peak memory."""
    versions = {"python": platform.python_version()}
    for name in ("oodgen", "torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "commit": commit(),
        "command": command(),
        "versions": versions,
        "hardware": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "system": platform.platform(terse=True),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def commit() -> str:
    """The commit of the source tree, with "+" if it has uncommitted changes; "" outside of one."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        top = Path(git("rev-parse", "--show-toplevel"))
        if not (top / "src" / "oodgen" / "runs" / "record.py").is_file():
            return ""  # installed inside somebody else's repository
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--", "src", "conf") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
