"""The canvases that a masked model went through, each as a row of its own.

Shapes: B rows of a batch, R canvases, T columns. A state is rebuilt from the stream `order`, the
step at which each token was written: at step s those of step s and later are hidden. That is true
of a model that takes no word back (`engines.denoise`, remask "none").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int

from autodidact.batch import Batch
from autodidact.credits.group import group_sum
from autodidact.parallel import total
from autodidact.view import View, noised

if TYPE_CHECKING:
    from autodidact.models import Models
    from autodidact.scores import Scores

Values = Float[torch.Tensor, "B T"]


def written_at(batch: Batch) -> Int[torch.Tensor, "B T"]:
    """The step at which each token of a canvas was written; 0 where it was given."""
    return torch.where(batch.take("canvas") == 1, batch.take("order").long(), 0)


def visited(batch: Batch) -> Batch:
    """A row for each canvas that a row went through, by rows and then by steps.

    Streams: those of the row, and `trace` [R], the number of that row, `step` [R], from 1 on, and
    `still` [R, T], 1 where a token was hidden then. Own are the row's own tokens among those.
    """
    order = written_at(batch)
    steps = torch.arange(1, int(order.max()) + 1 if order.numel() else 1, device=order.device)
    trace, number = (order[:, None] == steps[:, None]).any(2).nonzero(as_tuple=True)
    found, step = batch.select(trace.tolist()), steps[number]
    still = written_at(found) >= step[:, None]
    found = found.put(trace=trace, step=step, still=still.to(torch.int8))
    return replace(found, own=found.own & still)


def here(batch: Batch, size: int | None) -> Bool[torch.Tensor, "R T"]:
    """The block that a canvas of `visited` is written in: all of it without blocks."""
    canvas = batch.take("canvas") == 1
    if size is None:
        return canvas
    block = torch.where(canvas, (canvas.long().cumsum(1) - 1) // size, -1)
    now = written_at(batch) == batch.take("step")[:, None]
    return canvas & (block == torch.where(now, block, -1).amax(1, keepdim=True))


def per_step(batch: Batch) -> Float[torch.Tensor, "R"]:
    """1 / (canvases of the trace x traces): means over canvases, then over traces."""
    trace = batch.take("trace")
    if not len(trace):
        return torch.zeros(0, device=trace.device)
    ones = torch.ones(len(batch), device=trace.device, dtype=torch.float64)
    traces = total(torch.tensor(trace.unique().numel(), device=trace.device))
    return 1 / (group_sum(ones, trace) * traces)


def steps_mean(batch: Batch) -> Float[torch.Tensor, "R T"]:
    """Means over the own tokens of a canvas, then the canvases of a trace, then traces."""
    each = per_step(batch) / batch.own.sum(1).clamp(min=1)
    return batch.own * each[:, None]


@dataclass(frozen=True)
class Visits:
    """A `Reading` of the canvases of `visited`: each own token as it was hidden there."""

    masked: bool = True

    def credit(self, batch: Batch, models: Models) -> Batch:
        """Stream `before` [B, T]: log p at the weights as they are, which ratios are to."""
        views = self.views(batch, models, "policy", "policy", grad=False)
        return batch.put(before=models.scores(views, batch)["policy"].logp.detach())

    def views(
        self, batch: Batch, models: Models, name: str, role: str, *, grad: bool | None = None
    ) -> dict[str, View]:
        return {name: noised(batch, models, batch.take("still") == 1, role=role, grad=grad)}

    def logp(self, scores: Mapping[str, Scores], batch: Batch, name: str) -> Values:
        return scores[name].logp

    def laws(self, scores: Mapping[str, Scores], batch: Batch) -> tuple[Values, Values]:
        return scores["policy"].logp, batch.take("before")
