"""What preference losses share: implicit rewards, and the margin of a pair.

Shapes: B rows, T columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from autodidact.batch import Batch
from autodidact.credits.group import group_sum

if TYPE_CHECKING:
    from autodidact.scores import Scores


def implicit_reward(scores: Mapping[str, Scores], beta: float) -> Float[torch.Tensor, "B T"]:
    """beta log(policy / reference) of each token (DPO, 2305.18290)."""
    return beta * (scores["policy"].logp - scores["reference"].logp)


def margin(rewards: Float[torch.Tensor, "B T"], batch: Batch) -> Float[torch.Tensor, "B"]:
    """The reward of the chosen row (stream `side`) less that of the rejected, at both rows."""
    return group_sum(rewards.sum(1) * batch.take("side"), batch.group)
