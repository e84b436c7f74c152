"""`python -m oodgen.score RUN IMAGES...`: a score, a p-value and a verdict for each image file.

This module imports torch only after parsing its arguments, so that help and errors are fast.
"""

import argparse
import csv
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from oodgen.config import plugins
from oodgen.config.stored import read_run
from oodgen.errors import UserError
from oodgen.runs.escape import cell, terminal
from oodgen.runs.files import atomic_path
from oodgen.runs.invocation import program

if TYPE_CHECKING:
    import numpy as np

    from oodgen.detector import Detector

__all__ = ["FileScore", "main", "score_files"]

CHUNK = 32 * 2**20  # bytes of decoded images in memory at a time


class FileScore(NamedTuple):
    """The result of one file: verdict "OUT", "in", or "unreadable" for the reason `why`, with numbers None."""

    file: Path
    score: float | None
    p_value: float | None
    verdict: str
    why: str = ""


class _Writer(Protocol):
    def __call__(self, line: FileScore) -> None: ...


def score_files(detector: "Detector", paths: Sequence[Path], false_alarm: float) -> Iterator[FileScore]:
    """Score image files in order, in chunks.

    Arguments:
        detector: The detector.
        paths: Image files.
        false_alarm: The share of inliers that may be flagged.

    Raises:
        UserError: the detector cannot decide at this rate.
    """
    import numpy as np
    import torch

    detector.check(false_alarm)
    size = max(1, min(1024, CHUNK // int(np.prod(detector.conversion.shape))))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), size):
            chunk = paths[start : start + size]
            images = list(pool.map(lambda path: _decode(detector, path), chunk))
            good = [image for image in images if not isinstance(image, str)]
            scores = detector.score(np.stack(good)) if good else torch.empty(0)
            numbers = iter(zip(scores.tolist(), detector.p_value_of_score(scores).tolist(), strict=True))
            for path, image in zip(chunk, images, strict=True):
                if isinstance(image, str):
                    yield FileScore(path, None, None, "unreadable", image)
                else:
                    score, p = next(numbers)
                    yield FileScore(path, score, p, "OUT" if p <= false_alarm else "in")


def _decode(detector: "Detector", path: Path) -> "np.ndarray | str":
    """The decoded image, or the reason why it cannot be decoded."""
    if not path.is_file():
        return f"{path} is not a file"
    try:
        return detector.decode(path)
    except UserError as error:
        return str(error)
    except Exception as error:  # decoders raise any exception on damaged files, which should not stop the others
        return f"{path} cannot be read as an image ({type(error).__name__}: {error})"


def _image_files(places: Iterable[Path]) -> list[Path]:
    """The given files, and the images in the given folders."""
    from oodgen.data.folder import images

    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise UserError(f"{place} does not exist; give image files or folders of them")
        found += images(place) if place.is_dir() else [place]
    return found


def _print_line(line: FileScore) -> None:
    p, score = ("-", "-") if line.score is None else (f"{line.p_value:.4f}", f"{line.score:.3f}")
    print(f"{line.verdict:<10} {p:>7} {score:>12}  {terminal(line.file)}")


def _run(options: argparse.Namespace) -> int:
    paths = _image_files(options.images)
    read_run(options.run)  # what is wrong in it is found before torch is imported
    from oodgen.detector import Detector

    detector = Detector.load(options.run, options.score, options.device)
    if len(detector.conversion.shape) != 3:
        raise UserError(f"{options.run} was trained on rows of numbers; this command scores image files")
    detector.check(options.false_alarm)
    counts = {"in": 0, "OUT": 0, "unreadable": 0}
    with ExitStack() as stack:
        sink: _Writer = _print_line
        if options.out is not None:
            temporary = stack.enter_context(atomic_path(options.out))
            file = stack.enter_context(temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape"))
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(FileScore._fields[:4])

            def sink(line: FileScore) -> None:
                numbers = ["" if x is None else f"{x:.9g}" for x in (line.score, line.p_value)]
                writer.writerow([cell(str(line.file)), *numbers, line.verdict])

        else:
            print(f"{'verdict':<10} {'p_value':>7} {'score':>12}  file")
        for line in score_files(detector, paths, options.false_alarm):
            counts[line.verdict] += 1
            sink(line)
            if line.why:
                print(terminal(line.why), file=sys.stderr)
            done = sum(counts.values())
            if sys.stderr.isatty() and options.out is not None and (done % 1024 == 0 or done == len(paths)):
                print(
                    f"\r{done:,} of {len(paths):,}", end="\n" if done == len(paths) else "", file=sys.stderr, flush=True
                )
    print(terminal(_summary(counts, detector, options.false_alarm)))
    if options.out is not None:
        print(terminal(options.out))
    return 2 if counts["unreadable"] else 0


def _summary(counts: dict[str, int], detector: "Detector", false_alarm: float) -> str:
    n, bad = counts["in"] + counts["OUT"], counts["unreadable"]
    out = f"{counts['OUT']:,} OUT" + (f" ({counts['OUT'] / n:.1%})" if n else "")
    return (
        f"{n:,} image{'s' * (n != 1)} scored by {detector.name}: {out}; about {false_alarm * n:.3g} would be "
        f"if all were like {detector.inlier} (false-alarm rate {false_alarm:g}, "
        f"calibrated on {len(detector.reference):,} images)" + (f"; {bad:,} could not be read" if bad else "")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; return the exit code, 2 if a file could not be read or an error occurred."""
    parser = argparse.ArgumentParser(program(), description="Score image files with the detector of a finished run.")
    parser.add_argument("run", type=Path, metavar="RUN", help="an evaluation's directory, runs/eval/<name>/<hash>")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGES", help="image files, or folders of them")
    parser.add_argument(
        "--score",
        metavar="NAME",
        help="one of the run's scores (default: the one its page names first, evidence if it has it)",
    )
    parser.add_argument(
        "--false-alarm",
        type=float,
        default=0.05,
        metavar="RATE",
        help="share of inliers that may be flagged as OUT (0.05)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.csv",
        help="write file,score,p_value,verdict; names that begin with one of '=+-@ are prefixed by '",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="device (auto)")
    parser.add_argument(
        "--plugins", action="append", default=[], metavar="PACKAGE", help="a plug-in that the run uses; may be repeated"
    )
    options = parser.parse_args(arguments)
    if arguments is None and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `... | head` closes the pipe early, which is no error
    try:
        plugins.admit(options.plugins)
        return _run(options)
    except UserError as error:
        print(f"oodgen: {terminal(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
