"""Ranks in step: reads of sharded weights, however different the work of each rank is.

The weights of a sharded model are gathered from all ranks whenever one reads, and their gradients
summed over all whenever one goes backward, so all must do so at the same time. Yet one rank may
have fewer pieces, read two views in one pass where another needs two, or have no row at all. So
before each such act every rank says what it wants, and the first in the order below is done: by a
rank that wants it for its own rows, by any other for one token whose gradient is zero. Who is done
stands in until all are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

BACKWARD, TOTAL, DONE = 10**6, 10**6 + 1, 10**6 + 2
"""What a rank may want beside a reading, which has a lower number; the lowest goes first."""


class Lockstep:
    """Who wants what.

    Args:
        stand_in: (number of a reading) -> what it gives, on one token: tensors whose gradient the
            ranks sum. Equal numbers mean the same model, read in the same way.
    """

    def __init__(self, stand_in: Callable[[int], list[torch.Tensor]]):
        self.stand_in = stand_in
        self.kept: list[torch.Tensor] = []
        """What stood in with gradient since the last backward pass."""
        self.open = False
        """Weights are whole for now, and ranks need not be in step."""

    def until(self, wish: int) -> None:
        """Return when it is time for this; until then stand in for what others do."""
        while not self.open:
            now = _first(wish)
            if now == wish:
                return
            if now == BACKWARD:
                self.backward(None)
            elif now == TOTAL:
                assert wish == DONE, "a total is of all that are not done"
            else:
                self.kept += [each for each in self.stand_in(now) if each.requires_grad]

    def backward(self, loss: torch.Tensor | None) -> None:
        """The gradient of a loss, and of what stood in beside it; a pass that all ranks make."""
        parts = [each.sum() * 0 for each in self.kept]
        self.kept = []
        if loss is not None:
            parts.append(loss)
        if parts:
            torch.stack(parts).sum().backward()

    def learn(self, loss: torch.Tensor) -> None:
        """The gradient of a loss of this rank's rows, when it is time."""
        self.until(BACKWARD)
        self.backward(loss)

    def finish(self) -> None:
        """Return when all ranks are done."""
        self.until(DONE)


def _first(wish: int) -> int:
    """The lowest of what all ranks want."""
    found = torch.tensor(wish)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MIN)
    return int(found)
