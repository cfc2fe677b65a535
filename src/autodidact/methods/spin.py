from __future__ import annotations

from typing import Literal, get_args

import torch

from autodidact.law import Law
from autodidact.losses.preference import implicit_reward, margin
from autodidact.losses.weights import row_mean
from autodidact.method import Method, factory
from autodidact.names import choose
from autodidact.rollouts.role import SolutionPairs
from autodidact.view import plain

Kind = Literal["logistic", "hinge"]


@factory
def spin(
    beta: float = 0.1,
    length: int = 1024,
    opponent: str = "copy:50",
    kind: Kind = "logistic",
    temperature: float = 1.0,
) -> Method:
    """Self-Play Fine-Tuning: tell the solution of the data from what the last iterate writes.

    y the solution, y' ~ p_old(.|x);  h = beta (sum_t d_t(y) - sum_t d_t(y')),
    d_t = log p(y_t) - log p_old(y_t);  L = -log sigmoid(h), mean over pairs; hinge: max(0, 1 - h).
    An iteration lasts until p_old becomes a copy of p again.

    Source: Self-Play Fine-Tuning, arXiv 2401.01335. The release draws one y' for each prompt of an
    iteration beforehand and keeps pairs of the iteration before; here each step draws anew.
    Needs: `solution`. Detached: the opponent, which draws and is the reference.
    Shapes: one value per row, both rows of a pair carrying the loss of the pair.
    Raises: ValueError for an unknown kind, and before the run on problems without a solution.
    Degenerates to: `dpo` on these pairs; log 2 where p = p_old, with no gradient on average once
    p_old is the law of the data: nothing is learned beyond it.

    Args:
        beta: how far a margin moves the policy from the opponent.
        opponent: the last iterate: copy:50 is the policy of every 50th update, initial never moves.
        kind: of the loss.
    """
    choose("kind", kind, get_args(Kind))

    def views(batch, models):
        return {"policy": plain(batch), "reference": plain(batch, opponent)}

    def loss(scores, batch):
        h = margin(implicit_reward(scores, beta), batch)
        return (1 - h).clamp(min=0) if kind == "hinge" else -torch.nn.functional.logsigmoid(h)

    return Method(
        SolutionPairs(length, Law(temperature), (opponent,)),
        loss,
        views=views,
        weigh=row_mean,
        unit="group",
        stale=True,
        needs=("solution",),
        signal=lambda scores, batch, values: implicit_reward(scores, beta).detach(),
        signal_name="implicit reward of the token",
    )
