from __future__ import annotations

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
) -> Method:
    """DAPO: GRPO with clip-higher, a mean over tokens, and no groups without spread.

    L = -(1/sum_i T_i) sum_i sum_t min(rho A, clip(rho, 1-clip, 1+clip_high) A), A as in `grpo`.

    Source: DAPO, an Open-Source LLM Reinforcement Learning System at Scale, arXiv 2503.14476.
    Its overlong shaping is a reward, not a part of the loss, and is not added here.
    Needs: `answer`. Detached: advantages and old log-probabilities. No KL term.
    Shapes: one value per own token. Raises: as `grpo`.
    Degenerates to: `grpo` for equal lengths, equal clips and waves=1.

    Args:
        waves: at most this many times the problems of a step are tried to fill it.
        correct, cap: as in `grpo`; not of the paper.
    """
    return grpo(
        n, length, clip, clip_high, normalise="token", epochs=epochs, waves=waves,
        temperature=temperature, correct=correct, cap=cap,
    )  # fmt: skip
