"""What commands cost before they do anything: CPU time of whole processes, beside the programs they build on."""

import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from oodgen.bench.subject import Bench
from oodgen.bench.timing import Table

__all__ = ["measure"]

HYDRA = """import hydra
@hydra.main(version_base="1.3", config_path=None)
def main(config): print(config)
main()
"""
RUN = ("run", "+experiment=quickstart")


def measure(bench: Bench) -> list[Table]:
    """One table; each command is repeated five times, interleaved with the others (once if quick).

    The run that is scored is a smoke run of quickstart, whose model and probes are those of the real one.
    """
    with TemporaryDirectory() as folder:
        program, image, runs = Path(folder) / "program.py", Path(folder) / "image.png", Path(folder) / "runs"
        program.write_text(HYDRA)
        Image.fromarray(np.zeros((28, 28), np.uint8)).save(image)
        _cpu_seconds("-m", "oodgen", *RUN, "smoke=true", f"runs={runs}", "device.accelerator=cpu", "device.threads=1")
        run = str(runs / "smoke" / "eval" / "quickstart")
        score = ("score", run, str(image), "--false-alarm", "0.5", "--device", "cpu")
        # name -> arguments of Python, exit code, what it is compared with, and the largest ratio that is accepted
        commands = {
            "a three-line Hydra program --help": ((str(program), "--help"), 0, None, None),
            "oodgen run --help": (("-m", "oodgen", "run", "--help"), 0, 0, 1.4),
            "oodgen run with an unknown option": (("-m", "oodgen", *RUN, "sead=1"), 2, 0, 1.6),
            "oodgen run with a wrong value": (("-m", "oodgen", *RUN, "seed=abc"), 2, 0, 1.6),
            "import torch": (("-c", "import torch"), 0, None, None),
            "oodgen score of one image": (("-m", "oodgen", *score), 0, 4, 1.4),
            "oodgen --help": (("-m", "oodgen", "--help"), 0, None, None),
            "import oodgen": (("-c", "import oodgen"), 0, None, None),
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(1 if bench.quick else 5):
            for name, (arguments, code, _, _) in commands.items():
                seconds[name].append(_cpu_seconds(*arguments, code=code))
    median = [statistics.median(seconds[name]) for name in commands]
    rows = [
        (name, taken, "" if base is None else taken / median[base], most or "")
        for (name, (_, _, base, most)), taken in zip(commands.items(), median, strict=True)
    ]
    notes = ["user and system time of the whole process; ratios to the last line above that has none"]
    return [Table("Start-up of commands", ("command", "CPU s", "ratio", "at most"), rows, notes)]


def _cpu_seconds(*arguments: str, code: int = 0) -> float:
    """User and system CPU seconds of a Python process.

    Raises:
        RuntimeError: it ends with another exit code.
    """
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != code:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}, not {code}: {said}")
    return usage.ru_utime + usage.ru_stime
