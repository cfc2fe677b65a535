"""Rewards compared within a group. Rows that could not be scored (NaN) are left out."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int

from autodidact.batch import Batch

Scale = Literal["std", "none"]


def group_sum(
    values: Float[torch.Tensor, "B"], group: Int[torch.Tensor, "B"]
) -> Float[torch.Tensor, "B"]:
    """For each row the sum over its group."""
    _, index = group.unique(return_inverse=True)
    return values.new_zeros(int(index.max()) + 1).index_add(0, index, values)[index]


def group_mean(
    values: Float[torch.Tensor, "B"], group: Int[torch.Tensor, "B"]
) -> Float[torch.Tensor, "B"]:
    """For each row the mean over its group of the values that are not NaN (0 without any).

    Summed in float64, so that the mean of equal float32 values is that value and nothing beside
    it: an optimizer would blow the rest of a rounding up to a full step.
    """
    known = ~values.isnan()
    sums = group_sum(values.nan_to_num().double(), group)
    return (sums / group_sum(known.double(), group).clamp(min=1)).to(values.dtype)


def group_std(
    values: Float[torch.Tensor, "B"], group: Int[torch.Tensor, "B"]
) -> Float[torch.Tensor, "B"]:
    """For each row the sample standard deviation (n - 1) of its group; 0 for a single value."""
    centred = (values - group_mean(values, group)).double()
    counts = group_sum((~values.isnan()).double(), group)
    squares = group_sum((centred**2).nan_to_num(), group)
    return (squares / (counts - 1).clamp(min=1)).sqrt().to(values.dtype)


def group_advantage(batch: Batch, scale: Scale = "std", eps: float = 1e-4) -> Batch:
    """Stream `advantage` [B, T]: (R - mean) / (std + eps) of the row's group on its own tokens.

    `scale="none"` leaves out the division. A row without a reward gets 0.
    """
    reward = batch.take("reward")
    advantage = reward - group_mean(reward, batch.group)
    if scale == "std":
        advantage = advantage / (group_std(reward, batch.group) + eps)
    return batch.put(advantage=advantage.nan_to_num()[:, None] * batch.own)
