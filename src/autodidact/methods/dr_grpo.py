from __future__ import annotations

from autodidact.losses.importance import Correct
from autodidact.method import Method, factory
from autodidact.methods.grpo import grpo


@factory
def dr_grpo(
    n: int = 8,
    length: int = 1024,
    clip: float = 0.2,
    temperature: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """Dr. GRPO: GRPO without its two biases.

    A_i = R_i - mean R;  L = -(1/B) sum_i (1/length) sum_t min(rho A, clip(rho) A). The missing
    division by the standard deviation treats easy and hard questions alike; the constant
    instead of T_i no longer makes long wrong answers cheap.

    Source: Understanding R1-Zero-Like Training, arXiv 2503.20783.
    Needs: `answer`. Detached: advantages and old log-probabilities. No KL term.
    Shapes: one value per own token. Raises: as `grpo`.
    Degenerates to: (n-1)/n times RLOO's direction at ratio 1; `grpo` without scale when all
    answers have the length `length`.

    Args:
        correct, cap: as in `grpo`; not of the paper.
    """
    return grpo(
        n, length, clip, scale="none", normalise="constant", temperature=temperature,
        correct=correct, cap=cap,
    )  # fmt: skip
