"""What a masked model would have answered at each of its steps, and what that was worth.

Shapes: R canvases of `visited`, T columns. The full prediction at a canvas is what was written so
far, the tokens of this step included, and the likeliest word at every other place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from autodidact.batch import Batch
from autodidact.credits.group import Scale, group_mean, group_std, group_sum
from autodidact.credits.visited import Visits, visited, written_at
from autodidact.grade import grade

if TYPE_CHECKING:
    from autodidact.models import Models


def guessed(batch: Batch, models: Models) -> Batch:
    """A row for each canvas visited, with the full prediction made there as its tokens.

    Own are all places that were hidden. Streams: those of `visited`; `reward` and `correct` [R]
    of the prediction; `confidence` [R, T], the probability of its tokens at temperature 1.
    """
    found = visited(batch)
    found = replace(found, own=(found.take("still") == 1) & (found.take("canvas") == 1))
    view = Visits().views(found, models, "policy", "policy", grad=False)["policy"]
    scores = models.score(view, found, temperature=1.0)
    words, logps = scores.topk(2)
    # A mask is no word: where it is the likeliest the next one counts.
    second = words[..., 0] == models.policy.mask
    word, logp = (torch.where(second, each[..., 1], each[..., 0]) for each in (words, logps))
    ahead = written_at(found) > found.take("step")[:, None]
    sure = torch.where(ahead, logp, scores.logp).exp() * found.own
    found = replace(found, ids=torch.where(ahead, word, found.ids))
    return grade(found.put(confidence=sure), models)


def step_advantage(batch: Batch, scale: Scale = "std", eps: float = 1e-4) -> Batch:
    """Stream `advantage` [R, T] of the predictions of `guessed`, compared at the same step.

    With r_s the reward of the prediction at step s of S, and r_0 = 0, the raw advantage is
    (r_s - r_{s-1}) + mean_{s' > s} r_{s'}, and r_S at the last step; then (x - mean) / (std + eps)
    over the group at that step. A trace with a prediction that could not be scored gets 0.

    Source: MDPO, arXiv 2508.13148.
    """
    raw = step_values(batch)
    place = _cells(batch)
    advantage = raw - group_mean(raw, place)
    if scale == "std":
        advantage = advantage / (group_std(raw, place) + eps)
    return batch.put(advantage=advantage.nan_to_num()[:, None] * batch.own)


def step_values(batch: Batch) -> Float[torch.Tensor, "R"]:
    """The raw advantages of `step_advantage`."""
    reward, trace, step = (batch.take(name) for name in ("reward", "trace", "step"))
    found = torch.empty_like(reward)
    for number in trace.unique().tolist():
        rows = (trace == number).nonzero().flatten()
        rows = rows[step[rows].argsort()]
        r = reward[rows].double()
        left = torch.arange(len(r) - 1, -1, -1, device=r.device)
        later = (r.sum() - r.cumsum(0)) / left.clamp(min=1)
        change = r - torch.nn.functional.pad(r[:-1], (1, 0))
        found[rows] = torch.where(left > 0, change + later, r).to(reward.dtype)
    return found


def widest_steps(batch: Batch, count: int) -> Batch:
    """The canvases of so many steps of each group, of those with the largest sum of absolute
    advantages; the earlier ones of equal steps."""
    size = batch.take("advantage").abs().amax(1)
    place = _cells(batch)
    # Equal as far as rounding can tell, so that the order of rows does not decide.
    sums = (group_sum(size.double(), place) * 1e6).round()
    kept = torch.zeros(len(batch), dtype=torch.bool, device=sums.device)
    for group in batch.group.unique().tolist():
        rows = (batch.group == group).nonzero().flatten().tolist()
        known = {int(batch.take("step")[row]): float(sums[row]) for row in rows}
        best = sorted(known, key=lambda step: (-known[step], step))[:count]
        kept[rows] = torch.isin(batch.take("step")[rows], torch.tensor(best, device=sums.device))
    return batch.select(kept.nonzero().flatten().tolist())


def _cells(batch: Batch) -> torch.Tensor:
    """A number for each pair of group and step [R]."""
    pairs = torch.stack([batch.group, batch.take("step")], 1)
    return pairs.unique(dim=0, return_inverse=True)[1]
