r"""Several models of one architecture with independent weights.

Source: Choi, Jang, Alemi 2019, section 2 (papers/generative_ensembles, section 1).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oodgen.errors import UserError

__all__ = ["Ensemble"]


class Ensemble(nn.Module):
    r"""Members $\theta_1, \dots, \theta_M$ of one architecture: densities, critics or classifiers.

    It has no forward pass of its own; `oodgen.probes.members.Members` applies a probe to each member.

    Arguments:
        members: The models, at least two, without shared weights.

    Attributes:
        alive: Which members take part, bool (M,): training may drop diverged ones. A buffer, so part of checkpoints.

    Raises:
        UserError: there are fewer than two.
    """

    alive: Tensor

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(members) < 2:
            raise UserError(f"method.size={len(members)} must be at least 2: the variance is over members")
        self.members = nn.ModuleList(members)
        self.register_buffer("alive", torch.ones(len(members), dtype=torch.bool))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example."""
        return tuple(self.members[0].shape)  # type: ignore[arg-type]

    @property
    def bin(self) -> float | None:
        """See `oodgen.models.likelihoods.Likelihood`."""
        return self.members[0].bin  # type: ignore[return-value]

    def active_members(self) -> dict[int, nn.Module]:
        """The members with `alive`, by their number, counted from 1."""
        return {i: member for i, member in enumerate(self.members, 1) if self.alive[i - 1]}
