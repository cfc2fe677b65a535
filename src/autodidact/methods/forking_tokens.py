from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Literal, get_args

from autodidact import names
from autodidact.credits.quantile import highest
from autodidact.credits.selection import random_numbers
from autodidact.losses.importance import Correct
from autodidact.method import Method, factory, token_mean
from autodidact.methods.dapo import dapo
from autodidact.parallel import total
from autodidact.view import plain

Choose = Literal["highest", "lowest", "random"]
Denominator = Literal["all", "kept"]


@factory
def forking_tokens(
    n: int = 16,
    length: int = 1024,
    share: float = 0.2,
    choose: Choose = "highest",
    denominator: Denominator = "all",
    clip: float = 0.2,
    clip_high: float = 0.28,
    epochs: int = 1,
    waves: int = 3,
    temperature: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """80/20: only the tokens where the policy is least sure of what comes next learn.

    L = -(1/sum_i T_i) sum_{t in S} min(rho A, clip(rho, 1-clip, 1+clip_high) A), A as in `grpo`,
    S the share of the tokens of the whole batch with the highest entropy of p, at the
    temperature of sampling, rounded up, ties with the last included.

    Source: Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement
    Learning for LLM Reasoning, arXiv 2506.01939. The paper divides by all tokens, some ports by
    those in S: `denominator`.
    Needs: `answer`. Detached: S, advantages and old log-probabilities; S costs one more reading.
    Shapes: one value per own token, 0 outside of S.
    Raises: ValueError for a share outside 0..1, an unknown `choose` or `denominator`; as `grpo`.
    Degenerates to: `dapo` for share=1.

    Args:
        share: of the tokens that learn.
        choose: the controls: "lowest" takes the surest tokens, "random" any, by a hash of the row.
        denominator: "all" tokens, or those "kept": steps 1/share as large.
        waves, correct, cap: as in `dapo`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must be above 0 and at most 1")
    names.choose("choose", choose, get_args(Choose))
    names.choose("denominator", denominator, get_args(Denominator))
    part = Fraction(str(share))
    base = dapo(
        n, length, clip, clip_high, epochs=epochs, waves=waves, temperature=temperature,
        correct=correct, cap=cap,
    )  # fmt: skip

    def rank(batch, models):
        if choose == "random":
            return random_numbers(batch)
        entropy = models.score(plain(batch, grad=False), batch).entropy
        return entropy if choose == "highest" else -entropy

    def credit(batch, models):
        batch = base.credit(batch, models)
        chosen = highest(rank(batch, models), batch.own, part)
        return batch.put(chosen=chosen, advantage=batch.take("advantage") * chosen)

    def weigh(batch):
        if denominator == "all":
            return token_mean(batch)
        chosen = batch.take("chosen")
        return chosen / total(chosen.sum()).clamp(min=1)

    return replace(base, credit=credit, weigh=weigh)
