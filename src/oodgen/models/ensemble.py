r"""Several models of one architecture, trained apart, which only their scores bring together.

Source: Choi, Jang, Alemi 2019, section 2 (papers/generative_ensembles, section 1).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oodgen.errors import UserError

__all__ = ["Ensemble"]


class Ensemble(nn.Module):
    r"""Members $\theta_1, \dots, \theta_M$ of one architecture: densities, critics or whatever else a probe can ask.

    It answers no question itself; `oodgen.probes.members.Members` asks each member.

    Arguments:
        members: The models, at least two, with no weight in common.

    Attributes:
        alive: Which members count, (M,): training may drop one that diverged. A buffer, so that a checkpoint says it.

    Raises:
        UserError: there are fewer than two.
    """

    alive: Tensor

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(members) < 2:
            raise UserError(f"an ensemble of {len(members)} has no variance: method.size must be at least 2")
        self.members = nn.ModuleList(members)
        self.register_buffer("alive", torch.ones(len(members), dtype=torch.bool))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example."""
        return tuple(self.members[0].shape)  # type: ignore[arg-type]

    @property
    def bin(self) -> float | None:
        """Of the members' likelihood; see `oodgen.models.likelihoods.Likelihood`."""
        return self.members[0].bin  # type: ignore[return-value]

    def there(self) -> dict[int, nn.Module]:
        """The members that count by their number, 1 the first."""
        return {i: member for i, member in enumerate(self.members, 1) if self.alive[i - 1]}
