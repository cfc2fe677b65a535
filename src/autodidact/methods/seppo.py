from __future__ import annotations

import torch

from autodidact.credits.group import group_sum
from autodidact.law import Law
from autodidact.losses.preference import implicit_reward
from autodidact.losses.weights import row_mean
from autodidact.method import Method, factory
from autodidact.rollouts.role import SolutionPairs
from autodidact.view import plain


@factory
def seppo(
    beta: float = 0.1,
    length: int = 1024,
    past: str = "initial,copy:50",
    temperature: float = 1.0,
) -> Method:
    """Semi-Policy Preference Optimization, for language: an old sample loses, or wins as well.

    y_w the solution, y_r ~ p_ref(.|x), p_ref a past policy chosen at random for each step;
    d(y) = sum_t log p(y_t) - log p_ref(y_t);  s = 1 where d(y_w) >= 0, else -1;
    L = -log sigmoid(beta (d(y_w) - s d(y_r))), mean over pairs. Where the reference explains the
    solution better than the policy does, its own sample is taken for a second winner.

    Source: SePPO, arXiv 2410.05255, which is about diffusion models: this is its analogue for token
    sequences, log-probabilities in place of denoising errors, and its loss is reconstructed.
    Needs: `solution`. Detached: the reference, which also draws, and the flip s.
    Shapes: one value per row, both rows of a pair carrying the loss of the pair.
    Raises: ValueError for no past role, and before the run on problems without a solution.
    Degenerates to: `spin` where s = 1 everywhere and the past is its opponent; with s = -1 both
    answers attract.

    Args:
        beta: how far a margin moves the policy from the reference.
        past: roles of past policies, with commas; a copy:50 holds the last 50th update only.
    """
    roles = tuple(role.strip() for role in past.split(",") if role.strip())

    def views(batch, models):
        turn = int(batch.take("past")[0]) if "past" in batch.streams else 0
        return {"policy": plain(batch), "reference": plain(batch, roles[turn])}

    def loss(scores, batch):
        gap, won = implicit_reward(scores, 1.0).sum(1), batch.take("side") > 0
        kept = group_sum((won * gap.detach()).to(gap.dtype), batch.group) >= 0
        flip = torch.where(won | ~kept, 1.0, -1.0)
        return -torch.nn.functional.logsigmoid(beta * group_sum(flip * gap, batch.group))

    return Method(
        SolutionPairs(length, Law(temperature), roles),
        loss,
        views=views,
        weigh=row_mean,
        unit="group",
        stale=True,
        needs=("solution",),
        signal=lambda scores, batch, values: implicit_reward(scores, beta).detach(),
        signal_name="implicit reward of the token",
    )
