"""Scores of a critic. Larger = more out-of-distribution; a critic's values have no unit."""

from collections.abc import Mapping

from torch import Tensor

__all__ = ["d"]


def d(evidence: Mapping[str, Tensor], probe: str = "critic") -> Tensor:
    """-D(x), from `<probe>/d`, shape (N,). Source: Choi et al. 2019, table 2, column D."""
    return -evidence[f"{probe}/d"]
