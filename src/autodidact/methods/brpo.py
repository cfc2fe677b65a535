from __future__ import annotations

import torch

from autodidact.credits.budgets import Baseline, Prior, budget_relative, prior_of
from autodidact.credits.group import group_mean
from autodidact.credits.spans import Spans
from autodidact.law import Law
from autodidact.losses.policy import Surrogate, policy_gradient
from autodidact.method import Method, factory
from autodidact.parallel import total
from autodidact.rollouts.budgets import Budgets, thinking


@factory
def brpo(
    n: int = 8,
    budgets: str = "2048,4096,6144,8192",
    summaries: int = 4,
    length_summary: int = 128,
    after: str = "\n</think>\n\n",
    stop: str = "</think>",
    prior: Prior = "uniform",
    baseline: Baseline = "both",
    clip: float = 0.2,
    clip_high: float | None = None,
    epochs: int = 1,
    temperature: float = 1.0,
) -> Method:
    """Budget Relative Policy Optimization (AnytimeReasoner): thinking that may be cut anywhere.

    Each of n traces is cut at S budgets, with P_s how likely each is, and an answer is forced at
    each cut; r_s is the mean reward of its summaries. Thinking between the cuts s-1 and s has
    A_s = Ret_s - (s V1_s + (S-s) V2_s) / S, Ret_s = sum_{j>=s} P_j r_j, V1 from the row's rewards
    before s, V2 the mean Ret_s of the group, see `credits.budgets`. A summary has its reward
    minus the mean of those at its cut. L = -(1/c) sum_t min(rho A, clip(rho) A) of each problem,
    c = n b_S for thinking and n S summaries length_summary for summaries.

    Source: Optimizing Anytime Reasoning via Budget Relative Policy Optimization, arXiv 2505.13438.
    Needs: `answer`. Detached: advantages and the law that drew. No KL, no division by std.
    Shapes: one value per own token, of traces and of summaries.
    Raises: ValueError for n < 2, budgets that do not increase; rows beyond the context.
    Degenerates to: `dr_grpo` of the thinking for one budget, or for prior="last" with
    baseline="others"; summaries learn nothing where each cut has only one.

    Args:
        budgets: tokens of thinking at each cut, with commas.
        summaries, length_summary: answers at each cut, and their largest length.
        after, stop: what ends thinking, see `rollouts.budgets`; after="\\nanswer=" for terse sums.
        prior: "last", "uniform" or "linear" in the budget.
        baseline: "both", or "others" for V2 alone.
    """
    try:
        cuts = tuple(int(each) for each in budgets.split(","))
    except ValueError as error:
        raise ValueError(f"budgets={budgets!r}: give numbers with commas, as in 64,128") from error
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 traces to compare")
    rollout = Budgets(n, cuts, summaries, length_summary, after, stop, Law(temperature))
    chances = prior_of(prior, cuts)

    def credit(batch, models):
        trace, reward = thinking(batch), batch.take("reward").nan_to_num()
        key = _same(batch.group, batch.take("trace"))
        worth = torch.zeros(len(batch), len(cuts), dtype=torch.float64, device=key.device)
        table = _table(batch.put(reward=reward), key, len(cuts))[trace]
        worth[trace] = budget_relative(table, chances.to(key.device), batch.group[trace], baseline)
        inside = batch.own & trace[:, None]
        thought = Spans(torch.where(inside, batch.take("budget") - 1, -1)).at(worth)
        told = reward - group_mean(reward, _same(key, batch.take("cut")))
        advantage = torch.where(inside, thought, told.double()[:, None]) * batch.own
        return batch.put(advantage=advantage.to(reward.dtype))

    def weigh(batch):
        trace = thinking(batch)
        rows = total(trace.sum())
        count = torch.where(trace, cuts[-1], len(cuts) * summaries * length_summary) * rows
        return batch.own / count[:, None].clamp(min=1)

    bounds = Surrogate(low=clip, high=clip_high)
    return policy_gradient(rollout, credit, bounds, weigh, epochs=epochs)


def _same(*columns):
    """One number for all rows that are equal in all columns, each [B]."""
    return torch.stack(columns).unique(dim=1, return_inverse=True)[1]


def _table(batch, key, count):
    """The mean reward of the summaries at each cut of the row's trace, [B, count]."""
    told = ~thinking(batch)
    place = key[told], batch.take("cut")[told]
    reward = batch.take("reward")[told].double()
    sums, counts = reward.new_zeros(2, int(key.max()) + 1, count)
    sums.index_put_(place, reward, accumulate=True)
    counts.index_put_(place, torch.ones_like(reward), accumulate=True)
    # Cuts after the end of a trace are its last one.
    last = (counts > 0).sum(1, keepdim=True) - 1
    reached = torch.arange(count, device=key.device).minimum(last)
    return (sums / counts.clamp(min=1)).gather(1, reached)[key]
