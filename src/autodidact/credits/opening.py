"""What a network that opens places of a canvas learns from: its choices, and what they led to.

Shapes: R canvases of `visited`, T columns, D hidden size. What it reads and chose is data; its loss
is -A log P of the places opened at each step, on the one update of a batch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from autodidact.batch import Batch
from autodidact.credits.group import Scale, group_advantage
from autodidact.credits.unmasking import opened_at_once, plackett_luce
from autodidact.credits.visited import Visits, here, per_step, visited, written_at
from autodidact.view import noised

if TYPE_CHECKING:
    from autodidact.models import Models


def choices(batch: Batch, block: int | None, scale: Scale = "std") -> Batch:
    """The canvases visited, with what was chosen at each, and the advantage of the whole row.

    Own are the own tokens written at that step. Streams: `advantage` [R, T], the same at all
    steps, `worth` [R], that number, `open` [R, T], 1 at places that could be opened, `chosen`
    [R, T], 1 at those that were, and `choice` [R], 1 where there was one: some places were left.
    """
    batch = group_advantage(batch, scale)
    worth = (batch.take("advantage") * batch.own).sum(1) / batch.own.sum(1).clamp(min=1)
    steps = visited(batch.put(worth=worth))
    chosen = written_at(steps) == steps.take("step")[:, None]
    able = (steps.take("still") == 1) & here(steps, block)
    own = steps.own & chosen
    return replace(steps, own=own).put(
        advantage=steps.take("worth")[:, None] * own,
        open=able.to(torch.int8), chosen=chosen.to(torch.int8),
        choice=(able & ~chosen).any(1).to(worth.dtype),
    )  # fmt: skip


def with_states(batch: Batch, models: Models) -> Batch:
    """Stream `states` [R, T, D]: the policy's at all places of a canvas, as they are now."""
    canvas, still = batch.take("canvas") == 1, batch.take("still") == 1
    view = noised(batch, models, still, asked=canvas, grad=False)
    found = models.score(view, batch).hidden
    whole = found.new_zeros(*batch.ids.shape, found.shape[1])
    whole[view.asked] = found
    return batch.put(states=whole)


def with_sureness(batch: Batch, models: Models) -> Batch:
    """Stream `sure` [R, T]: the probability of the likeliest word at places that can be opened."""
    asked = replace(batch, own=batch.take("open") == 1)
    view = Visits().views(asked, models, "policy", "policy", grad=False)["policy"]
    found = models.score(view, asked, temperature=1.0).topk(1)[1].squeeze(-1)
    return batch.put(sure=found.exp() * asked.own)


def ordered_loss(network: torch.nn.Module, batch: Batch) -> Float[torch.Tensor, "R"]:
    """-A log P of the places opened at each step in their order, by Plackett and Luce."""
    canvas, still, able, chosen = _places(batch)
    scores = network(batch.take("states"), canvas, still, able)
    rank = torch.where(chosen, batch.take("rank"), 0)
    return -batch.take("worth") * plackett_luce(scores, able, rank)


def chance_loss(network: torch.nn.Module, batch: Batch) -> Float[torch.Tensor, "R"]:
    """-A log P of the set of places opened at each step, each by its own chance."""
    canvas, _, able, chosen = _places(batch)
    odds = network(batch.take("sure"), canvas, able)
    return -batch.take("worth") * opened_at_once(odds, able, chosen)


def _places(batch: Batch) -> list[torch.Tensor]:
    return [batch.take(name) == 1 for name in ("canvas", "still", "open", "chosen")]


def per_action(batch: Batch) -> Float[torch.Tensor, "R T"]:
    """Sums over the own tokens of a canvas, means over the canvases of a trace, then traces."""
    return batch.own * per_step(batch)[:, None]


def choice_mean(batch: Batch) -> Float[torch.Tensor, "R"]:
    """Means over the canvases of a trace, then traces; 0 where nothing was left to choose."""
    return per_step(batch) * batch.take("choice")


def faster(batch: Batch, alpha: float) -> Batch:
    """`reward` times (1 - steps / places)^alpha: nothing for a wrong text at any speed.

    Places are those to be written, steps those it took; the reward as it was is `quality` [B].
    """
    order = written_at(batch)
    share = order.amax(1) / (order > 0).sum(1).clamp(min=1)
    reward = batch.take("reward")
    speed = (1 - share.to(reward.dtype)) ** alpha
    return batch.put(reward=reward * speed, quality=reward)
