"""What a teacher may see of the text ahead of a canvas that its student stands at.

Shapes: R canvases of `visited`, T columns. Where a teacher of a causal model reads another prompt,
that of a masked one reads the same canvas with more of it filled in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Bool

from autodidact.batch import Batch
from autodidact.credits.selection import row_names
from autodidact.credits.visited import here, written_at
from autodidact.law import uniform
from autodidact.names import choose
from autodidact.rollouts.inpaint import written_out
from autodidact.view import View, noised

if TYPE_CHECKING:
    from autodidact.models import Models

Source = Literal["own", "solution"]


@dataclass(frozen=True)
class Peek:
    """Which places ahead a teacher sees, and whose tokens stand there.

    Ahead are the later blocks or, without blocks, what was written at later steps. The share of a
    row's places is drawn once, by a hash of its tokens, so that what is seen at a step was seen at
    all earlier ones.

    Attributes:
        share: of what a row wrote; so much of it is seen as lies ahead.
        block: places of a block; `None` for a canvas without blocks.
        source: whose tokens: those that the row "own" wrote later, or of the "solution".

    Raises:
        ValueError: a share outside 0 to 1, or an unknown source; and of the solution, a problem
            without one, or one of another size than its canvas.
    """

    share: float = 0.25
    block: int | None = None
    source: Source = "own"

    def __post_init__(self):
        choose("reveal source", self.source, get_args(Source))
        if not 0 <= self.share <= 1:
            raise ValueError(f"reveal={self.share} is a share: it must be from 0 to 1")

    def places(self, batch: Batch) -> Bool[torch.Tensor, "R T"]:
        """What is seen from each canvas."""
        order = written_at(batch)
        later = order > batch.take("step")[:, None]
        if self.block is not None:
            later &= ~here(batch, self.block)
        names = row_names(batch)[:, None]
        columns = torch.arange(order.shape[1], device=order.device)
        numbers = uniform(0, names, torch.zeros_like(names), columns)
        rank = torch.where(order > 0, numbers, 2.0).argsort(1).argsort(1)
        return later & (rank < (self.share * (order > 0).sum(1, keepdim=True)).floor())

    def credit(self, batch: Batch, models: Models) -> Batch:
        """Streams `shown` [R, T], 1 where a place is seen, and `told` [R, T], the tokens there.

        Own are the tokens left of the block that is being written.
        """
        shown, told = self.places(batch), batch.ids
        if self.source == "solution":
            told = _solutions(batch, models)
        own = batch.own & ~shown & here(batch, self.block)
        return replace(batch, own=own).put(shown=shown.to(torch.int8), told=told)

    def view(self, batch: Batch, models: Models, role: str) -> View:
        """The canvas as the teacher reads it. Asked are the own tokens, which stay hidden."""
        shown = batch.take("shown") == 1
        view = noised(batch, models, (batch.take("still") == 1) & ~shown, role=role, grad=False)
        return replace(view, ids=torch.where(shown, batch.take("told"), view.ids))


def surest(batch: Batch, models: Models, view: View, count: int) -> Batch:
    """Own are only the so many tokens of a canvas of which the reader of a view is surest: by the
    probability of its likeliest word. Canvases without an own token are left out."""
    sure = models.score(view, batch, temperature=1.0).topk(1)[1].squeeze(-1)
    ranked = torch.where(batch.own, sure, -torch.inf).argsort(dim=1, descending=True, stable=True)
    own = batch.own & (ranked.argsort(1) < count)
    return replace(batch, own=own).select(own.any(1).nonzero().flatten().tolist())


def _solutions(batch: Batch, models: Models) -> torch.Tensor:
    """The tokens of each row's reference at the places of its canvas."""
    found, known = batch.ids.clone(), {}
    for row, problem in enumerate(batch.rows):
        columns = (batch.take("canvas")[row] == 1).nonzero().flatten()
        key = int(batch.take("trace")[row])
        if key not in known:
            ids = written_out(models.policy, batch.task, problem, len(columns))
            known[key] = ids + [models.policy.end] * (len(columns) - len(ids))
        found[row, columns] = torch.tensor(known[key], device=found.device)
    return found
