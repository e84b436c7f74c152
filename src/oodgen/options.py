"""Annotated types of options, with ranges, for constructors that are built from a config.

`oodgen.config.schema` checks them before anything is built. Numbers are annotated with their bounds (and must be
finite), text with a description and a regular expression that it must match fully.
"""

from typing import Annotated, Literal

__all__ = [
    "Activation",
    "Count",
    "FolderName",
    "Fraction",
    "NonNegative",
    "Positive",
    "Probability",
    "Seed",
    "Share",
    "Whole",
]

Count = Annotated[int, ">= 1", "< 2147483648"]
Whole = Annotated[int, ">= 0", "< 2147483648"]
Seed = Annotated[int, ">= 0", "< 4294967296"]
Positive = Annotated[float, "> 0"]
NonNegative = Annotated[float, ">= 0"]
Fraction = Annotated[float, "> 0", "< 1"]
Share = Annotated[float, ">= 0", "< 1"]
Probability = Annotated[float, ">= 0", "<= 1"]

# A folder's own name, so that nothing is written elsewhere; see `oodgen.runs.files.check_name`.
FolderName = Annotated[str, "a single name", r"""\w[^/\\,"'\x00-\x1f\x7f]{0,99}"""]

# Modules of torch.nn without required arguments that keep the shape.
# fmt: off
Activation = Literal[
    "ReLU", "LeakyReLU", "ReLU6", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish", "Softplus", "Softsign", "Tanh",
    "Sigmoid", "LogSigmoid", "Hardtanh", "Hardsigmoid", "Hardswish", "Hardshrink", "Softshrink", "Tanhshrink",
    "Identity",
]
# fmt: on
