from __future__ import annotations

import torch

from autodidact.credits.judge import Judge, Vote, fined
from autodidact.credits.scaling import token_group_mean_std
from autodidact.credits.steps import Steps
from autodidact.law import Law
from autodidact.losses.importance import Correct
from autodidact.losses.policy import Surrogate, policy_gradient
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample


@factory
def capo(
    n: int = 16,
    length: int = 1024,
    right: float = 2.0,
    fine: float = 1.0,
    critic: str = "arithmetic",
    k: int = 4,
    vote: Vote = "intersection",
    mark: str = "\n",
    length_critique: int = 256,
    clip: float = 0.2,
    clip_high: float | None = None,
    normalise: Normalise = "token",
    epochs: int = 1,
    temperature: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """CAPO: critics name the wrong steps of a completion, and their tokens are fined.

    r_t = right R - fine 1[t in a wrong step]; A_t = (r_t - mean r) / (std r + 1e-4), mean and
    standard deviation (of n) over all tokens of the group;
    L = -(1/N) sum_t min(rho A_t, clip(rho, 1-clip, 1+clip_high) A_t).

    Source: CAPO: Towards Enhancing LLM Reasoning through (Verifiable) Generative Credit
    Assignment, arXiv 2508.02298; its critic is a far larger model, which any function may ask.
    Needs: `answer`, and `solution` where the policy is its own critic.
    Detached: advantages, critiques, the law that drew. No KL term.
    Shapes: one value per own token.
    Raises: ValueError for n < 2, no mark, an unknown critic or vote.
    Degenerates to: `grpo` with that standard deviation for fine=0 or where no step is wrong, if
    all lengths are equal; otherwise its mean counts longer completions more.

    Args:
        right, fine: with 2 and 1 a token is worth 2 in a right step of a right answer, 1 in a
            wrong one, 0 and -1 where the answer is wrong; with fine >= right flawless failure is
            worth as much as flawed success.
        critic: "arithmetic", "self" or functions of one's own, see `credits.judge.Judge`.
        k, length_critique: critiques of the policy itself for each completion, and their length.
        vote: "intersection", "majority", "union" or "average" over all critiques.
        mark: what ends a step.
        clip, clip_high, normalise, correct, cap: as in `grpo`.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    if not mark:
        raise ValueError("mark='' is not allowed: some text must end a step")
    judge = Judge(critic, k, vote, length_critique)

    def credit(batch, models):
        wrong = judge.wrong(batch, Steps.of(batch, models.policy, mark), models)
        reward = batch.take("reward")
        known = batch.own & ~reward.isnan()[:, None]
        worth = fined(reward.nan_to_num(), wrong.to(reward.dtype), known, right, fine)
        mean, std = token_group_mean_std(worth, known, batch.group)
        advantage = (worth - mean[:, None]) / (std[:, None] + 1e-4)
        return batch.put(advantage=torch.where(known, advantage, 0.0))

    return policy_gradient(
        Sample(n, length, Law(temperature)),
        credit,
        Surrogate(low=clip, high=clip_high, correct=correct, cap=cap),
        normalised(normalise, length),
        epochs=epochs,
        needs=("answer", *judge.needs),
    )
