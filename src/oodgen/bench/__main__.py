"""`python -m oodgen.bench`: benchmarks of training, scoring, data loading, statistics and start-up on this machine.

Variants of a comparison are interleaved and medians are printed, to be robust to other load. On a busy machine one
thread is used unless --threads is given, since threads that wait for busy cores can be ten times slower than one. Two
free cores need about four minutes.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from oodgen.bench import ensemble, evidence, flops, helpers, loading, loop, scoring, startup, training
from oodgen.bench.subject import Bench, check_model
from oodgen.bench.timing import Effort, Table, text
from oodgen.errors import UserError
from oodgen.runs import record
from oodgen.runs.escape import terminal
from oodgen.runs.files import write_text
from oodgen.runs.invocation import check_ranges, program
from oodgen.training.device import Device

__all__ = ["main"]

SECTIONS: dict[str, Callable[[Bench], list[Table]]] = {
    "train": training.measure,
    "score": scoring.measure,
    "probes": scoring.measure_probes,
    "flops": flops.measure,
    "loop": loop.measure,
    "data": loading.measure,
    "ensemble": ensemble.measure,
    "helpers": helpers.measure,
    "evidence": evidence.measure,
    "startup": startup.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; return the exit code, 2 after the one line of a UserError."""
    try:
        _run(_parser().parse_args(arguments))
    except UserError as error:
        print(f"oodgen: {terminal(error)}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    check_ranges(options, batch=(1, 65_536), threads=(1, 1024))
    sections = list(SECTIONS) if options.only is None else options.only.split(",")
    if unknown := [name for name in sections if name not in SECTIONS]:
        raise UserError(f"--only {unknown[0]!r} is no section; there are: {', '.join(SECTIONS)}")
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    busy = load > cores / 2
    threads = options.threads or (1 if busy else None)
    device = Device(accelerator={"cuda": "gpu"}.get(options.device, options.device), threads=threads).resolved()
    torch.set_num_threads(device.threads or 1)
    gpu = device.accelerator == "gpu"
    if options.compile and not _can_compile(gpu):
        raise UserError("--compile needs triton on a GPU, a C++ compiler on a CPU; neither is here: leave it out")
    effort = Effort(1, 3, 0.5, 0.01) if options.quick else Effort()
    batch = options.batch or (16 if options.quick else 128)
    compiled = options.compile or (gpu and not options.quick and _can_compile(gpu))
    for name in (models := tuple(options.models.split(","))):
        check_model(name)
    bench = Bench(device, models, batch, compiled, options.quick, effort)

    made = record.provenance()
    hardware = made["hardware"] + (f", {torch.cuda.get_device_name()}" if gpu else "")
    print(f"{hardware}; torch {torch.__version__}, {device.threads} thread(s); commit {made['commit'] or 'unknown'}")
    if busy and not options.threads:
        print(f"the machine is busy (load average {load:.1f} on {cores} cores), so one thread; --threads N for more")
    start, outcome = time.perf_counter(), {}
    for name in sections:
        tables = SECTIONS[name](bench)
        outcome[name] = [table._asdict() for table in tables]
        print("\n".join(map(text, tables)), flush=True)
    seconds = round(time.perf_counter() - start, 1)
    print(f"\n{seconds:.0f} s; load average {load:.1f} before, {os.getloadavg()[0]:.1f} after")
    if options.out:
        kept = {"provenance": made | {"hardware": hardware}, "device": asdict(device), "batch": batch}
        kept |= {"seconds": seconds, "load": load, "sections": outcome}
        write_text(options.out, json.dumps(kept, indent=1) + "\n")


def _can_compile(gpu: bool) -> bool:
    if gpu:
        return importlib.util.find_spec("triton") is not None
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(program(), description="Measure oodgen on this machine.")
    parser.add_argument("--quick", action="store_true", help="few rounds, small batches: does it run?")
    parser.add_argument("--only", metavar="SECTIONS", help=f"comma-separated, of: {', '.join(SECTIONS)}")
    parser.add_argument("--models", default="hvae_grey,hvae_small,hvae_tiny", help="of conf/model, the paper's first")
    parser.add_argument("--batch", type=int, help="images in a training batch (128; 16 if quick)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu", "cuda"))
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--compile", action="store_true", help="torch.compile too: a minute for each model on a CPU")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
