"""How each token's gradient moves the right answers of its group: Token Hidden Reward.

Shapes: B rows, T columns.

Source: Token Hidden Reward, arXiv 2510.03669; the threshold follows its parent NTHR, arXiv
2505.18830.
"""

from __future__ import annotations

import torch
from jaxtyping import Float

from autodidact.batch import Batch
from autodidact.credits.group import group_sum
from autodidact.credits.quantile import SLACK
from autodidact.groupwise import Words, influence
from autodidact.models import Models
from autodidact.view import plain


def hidden_reward(
    batch: Batch, models: Models, words: Words = "all"
) -> tuple[Float[torch.Tensor, "B T"], Float[torch.Tensor, "B"]]:
    """+-g_t^T M h_t of each own token, + in right rows and - in wrong ones, and a threshold.

    M = sum over the right rows i of the group of (1/T_i) sum_k g_k h_k^T, g = onehot - p, is the
    gradient of their mean log-likelihoods in the head's weight. The threshold of a row is the
    least, over the right rows of its group, of the mean of g^T M h. Both are 0 in groups that are
    not mixed.

    Raises:
        ValueError: no row can be judged right or wrong.
    """
    right, wrong = batch.take("correct") == 1, batch.take("correct") == 0
    if not (right | wrong).any():
        raise ValueError(f"no answer to {batch.task.name!r} can be judged right or wrong")
    both = [group_sum(each.float(), batch.group) > 0 for each in (right, wrong)]
    mixed = both[0] & both[1]
    length = batch.own.sum(1, keepdim=True).clamp(min=1).double()
    step = batch.own / length * (right & mixed)[:, None]
    moved = influence(models.score(plain(batch), batch), step, batch.group, words)
    mean = torch.where(right & mixed, (moved / length).sum(1), torch.inf)
    index = batch.group.unique(return_inverse=True)[1]
    least = torch.full_like(mean, torch.inf).scatter_reduce(0, index, mean, "amin")[index]
    side = (2 * batch.take("correct") - 1).nan_to_num()[:, None]
    return side * moved, torch.where(mixed, least, 0.0)


def steered(
    reward: Float[torch.Tensor, "B T"],
    least: Float[torch.Tensor, "B"],
    p: float,
    tau: float | None = None,
) -> Float[torch.Tensor, "B T"]:
    """1[|THR_t| > tau] (1 + sign(THR_t) p), a weight of each token; tau is `least` by default."""
    bar = least[:, None] if tau is None else torch.full_like(reward, tau)
    # A mean of one token is that token, up to rounding.
    dominant = reward.abs() > bar + SLACK * bar.abs()
    return dominant * (1 + reward.sign() * p)
