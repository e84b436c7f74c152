"""Deep generative models for out-of-distribution detection: training, scoring and comparison.

    detector = oodgen.load("runs/eval/own_images")  # a finished run
    detector.score(x)  # larger = more out-of-distribution
    detector.p_value(x)  # small = out-of-distribution
    detector.predict(x, false_alarm=0.01)  # True = out-of-distribution

`import oodgen` does not import torch; the first use of `load`, `Detector` or `metrics` does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from oodgen.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from oodgen import metrics
    from oodgen.detector import Detector

__all__ = ["Detector", "UserError", "__version__", "load", "metrics"]

__version__ = "0.1.0"
__path__ = [*__path__, *(f"{folder}/former" for folder in __path__)]  # addresses of commands of version 0.1


def load(run: "str | Path", score: str | None = None, device: str = "auto") -> "Detector":
    """The detector of a finished run; see `Detector.load`."""
    from oodgen.detector import Detector

    return Detector.load(run, score, device)


def __getattr__(name: str) -> Any:
    if name == "Detector":
        return import_module("oodgen.detector").Detector
    if name == "metrics":
        return import_module("oodgen.metrics")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
