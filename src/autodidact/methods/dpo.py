from __future__ import annotations

import torch

from autodidact.law import Law
from autodidact.losses.preference import implicit_reward, margin
from autodidact.losses.weights import row_mean
from autodidact.method import Method, factory
from autodidact.rollouts.choose import BestAndWorst
from autodidact.rollouts.given import GivenPairs
from autodidact.view import plain


@factory
def dpo(
    beta: float = 0.1,
    smoothing: float = 0.0,
    n: int = 8,
    length: int = 1024,
    given: bool = False,
    temperature: float = 1.0,
) -> Method:
    """Direct Preference Optimization on pairs of a better and a worse answer.

    h = beta (sum_t d_t(chosen) - sum_t d_t(rejected)), d_t = log p(y_t) - log p_ref(y_t);
    L = -(1-e) log sigmoid(h) - e log sigmoid(-h), mean over pairs, e the smoothing.

    Source: Direct Preference Optimization, arXiv 2305.18290.
    Needs: `answer` for pairs drawn from the policy (the best and the worst of n by reward); the
    columns `chosen` and `rejected` with `given=True`. Detached: the reference (initial weights).
    Shapes: one value per row, both rows of a pair carrying the loss of the pair.
    Raises: ValueError for a smoothing outside [0, 0.5) and on data without what it needs.
    Degenerates to: log 2 at the reference; -h/2 + log 2 as beta goes to 0.

    Args:
        beta: how far a margin moves the policy from the reference.
        smoothing: share of pairs taken to be labelled the wrong way round.
        given: take pairs from the data instead of drawing them.
    """
    if not 0 <= smoothing < 0.5:
        raise ValueError(f"smoothing={smoothing} must be at least 0 and below 0.5")

    def views(batch, models):
        return {"policy": plain(batch), "reference": plain(batch, "initial")}

    def loss(scores, batch):
        h = margin(implicit_reward(scores, beta), batch)
        return -(1 - smoothing) * _logsigmoid(h) - smoothing * _logsigmoid(-h)

    return Method(
        GivenPairs() if given else BestAndWorst(n, length, Law(temperature)),
        loss,
        views=views,
        weigh=row_mean,
        unit="group",
        stale=True,
        needs=() if given else ("answer",),
        signal=lambda scores, batch, values: implicit_reward(scores, beta).detach(),
        signal_name="implicit reward of the token",
    )


def _logsigmoid(h: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(h)
