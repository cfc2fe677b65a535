from __future__ import annotations

from dataclasses import replace

from autodidact.credits.length import overlong as punished
from autodidact.losses.importance import Correct
from autodidact.method import Method, factory
from autodidact.methods.grpo import grpo


@factory
def dapo(
    n: int = 16,
    length: int = 1024,
    clip: float = 0.2,
    clip_high: float = 0.28,
    epochs: int = 1,
    waves: int = 3,
    temperature: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
    overlong: float = 0.0,
    cushion: float = 0.2,
) -> Method:
    """DAPO: GRPO with clip-higher, a mean over tokens, and no groups without spread.

    L = -(1/sum_i T_i) sum_i sum_t min(rho A, clip(rho, 1-clip, 1+clip_high) A), A as in `grpo`, of
    the rewards R_i + overlong min(0, ((length - c) - T_i) / c), c = cushion length.

    Source: DAPO, an Open-Source LLM Reinforcement Learning System at Scale, arXiv 2503.14476.
    It has rewards of -1 and 1 and loses 1 at most: for rewards from 0 to 1 that is overlong=0.5.
    Needs: `answer`. Detached: advantages and old log-probabilities. No KL term.
    Shapes: one value per own token.
    Raises: as `grpo`, and ValueError for a cushion outside 0 to 1.
    Degenerates to: `grpo` for equal lengths, equal clips and waves=1.

    Args:
        waves: at most this many times the problems of a step are tried to fill it.
        correct, cap: as in `grpo`; not of the paper.
        overlong: what an answer of `length` tokens loses, before rewards are compared.
        cushion: share of `length` over which that loss grows (4096 of 20480 in the paper).
    """
    if not 0 < cushion <= 1:
        raise ValueError(f"cushion={cushion} is a share of the length: above 0, at most 1")
    method = grpo(
        n, length, clip, clip_high, normalise="token", epochs=epochs, waves=waves,
        temperature=temperature, correct=correct, cap=cap,
    )  # fmt: skip
    if not overlong:
        return method

    def credit(batch, models):
        reward = batch.take("reward")
        shaped = reward + overlong * punished(batch, length, cushion * length)
        return method.credit(batch.put(reward=shaped), models).put(reward=reward)

    return replace(method, credit=credit)
