from __future__ import annotations

import math
from typing import Literal, get_args

import torch

from autodidact.credits.group import group_advantage, group_std
from autodidact.law import Law
from autodidact.losses.policy import Surrogate, policy_gradient
from autodidact.method import Method, factory, token_mean
from autodidact.names import choose
from autodidact.rollouts.ranking import row_means
from autodidact.rollouts.segments import Segments
from autodidact.view import plain

Ratio = Literal["pseudo", "segment"]


@factory
def ulorl(
    n: int = 8,
    length: int = 8192,
    budget: int = 1024,
    sure: float = 0.99,
    sigma: float = 0.2,
    ratio: Ratio = "pseudo",
    clip: float = 0.2,
    clip_high: float | None = None,
    temperature: float = 0.85,
) -> Method:
    """UloRL: long answers drawn in pieces; what is mastered is left alone while entropy is low.

    L = -(1/sum_i T_i) sum_i sum_t (1 - M_it) min(rho A, clip(rho, 1-clip, 1+clip_high) A), A as in
    `grpo`; M_it = 1 iff R_i = 1, p(y_t) >= sure and (1/T_i) sum_t H_t < sigma. Tokens with M = 1
    stay in the denominator. Groups whose rewards are all equal are dropped.

    Source: UloRL: An Ultra-Long Output Reinforcement Learning Approach, arXiv 2507.19766. Its
    reward of 0 for an answer that runs out of length is the task's, and is not added here.
    Needs: `answer`. Detached: M, p and H within it, advantages, old log-probabilities.
    Shapes: one value per own token. A step writes at most `budget` tokens of each answer and may
    have no row to learn from: groups come when their last answer is over.
    Raises: ValueError for n < 2, an unknown ratio, and before the run on problems without answers.
    Degenerates to: `grpo` with normalise="token" on groups with spread for budget >= length and
    sigma=0, which never masks; sigma=inf always does.

    Args:
        length, budget: tokens of an answer, and those that a step writes of it at most.
        sure: from this probability on a token of a right answer is mastered.
        sigma: mean entropy of a row, in nats, below which its mastered tokens do not learn.
        ratio: "pseudo": 1, every token taken as drawn by the weights of now, as one update makes
            of a fresh draw; "segment": to the law of the weights that drew the piece.
        clip, clip_high: bounds of the ratio; without a part in "pseudo".
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    choose("ratio", ratio, get_args(Ratio))

    def credit(batch, models):
        batch = group_advantage(batch)
        spread = group_std(batch.take("reward"), batch.group) > 0
        batch = batch.select(spread.nonzero().squeeze(1).tolist())
        if not len(batch):
            return batch
        read = models.score(plain(batch, grad=False), batch).read("logp", "entropy")
        calm = row_means(batch, read["entropy"]) < sigma
        mastered = calm & (batch.take("reward") == 1)
        masked = mastered[:, None] & (read["logp"] >= math.log(sure))
        return batch.put(advantage=torch.where(masked, 0.0, batch.take("advantage")))

    return policy_gradient(
        Segments(n, length, budget, "groups", Law(temperature)),
        credit,
        Surrogate(kind="none" if ratio == "pseudo" else "clip", low=clip, high=clip_high),
        token_mean,
    )
