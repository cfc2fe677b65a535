"""Rewards at several budgets of thinking, compared with what was earned before and by others.

Shapes: B rows, S budgets. Budgets are numbered from 0 on.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int

from autodidact.credits.group import group_mean
from autodidact.names import choose

Prior = Literal["last", "uniform", "linear"]
Baseline = Literal["both", "others"]


def prior_of(kind: Prior, budgets: tuple[int, ...]) -> Float[torch.Tensor, "S"]:
    """How likely each budget is: all on the last one, all alike, or in proportion to its size."""
    choose("prior", kind, get_args(Prior))
    sizes = torch.tensor(budgets, dtype=torch.float64)
    if kind == "last":
        return torch.eye(len(budgets), dtype=torch.float64)[-1]
    return sizes / sizes.sum() if kind == "linear" else torch.full_like(sizes, 1 / len(budgets))


def budget_relative(
    rewards: Float[torch.Tensor, "B S"],
    prior: Float[torch.Tensor, "S"],
    group: Int[torch.Tensor, "B"],
    baseline: Baseline = "both",
) -> Float[torch.Tensor, "B S"]:
    """What the thinking before each cut, and after the one before it, is worth (BRPO, 2505.13438).

    Ret_s = sum_{j>=s} P_j r_j, the rewards still to come;
    V1_s = (sum_{j<s} 2^j r_j / sum_{j<s} 2^j) sum_{j>=s} P_j, what the row earned so far, and
    V2_s = mean over the group of Ret_s; A_s = Ret_s - (s V1_s + (S - s) V2_s) / S.
    V1 is of the past and V2 of all rows of the problem, so that neither turns a gradient beyond
    the usual factor of a mean that holds the row itself.

    Args:
        rewards: r_s of each trace.
        prior: P_s.
        baseline: "others" takes V2 alone: A_s = Ret_s - V2_s.
    """
    choose("baseline", baseline, get_args(Baseline))
    rewards, count = rewards.to(prior.dtype), rewards.shape[1]
    coming = (prior * rewards).flip(1).cumsum(1).flip(1)
    others = torch.stack([group_mean(column, group) for column in coming.T], 1)
    if baseline == "others":
        return coming - others
    weight = 2.0 ** torch.arange(count, dtype=prior.dtype, device=prior.device)
    past = (weight * rewards).cumsum(1) - weight * rewards
    known = (past / (weight.cumsum(0) - weight).clamp(min=1)) * prior.flip(0).cumsum(0).flip(0)
    turn = torch.arange(count, dtype=prior.dtype, device=prior.device)
    return coming - (turn * known + (count - turn) * others) / count
