from __future__ import annotations

from autodidact.credits.group import group_advantage
from autodidact.law import Law
from autodidact.losses.importance import Correct
from autodidact.losses.policy import Level, Surrogate, policy_gradient
from autodidact.losses.weights import normalised
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample


@factory
def gspo(
    n: int = 8,
    length: int = 1024,
    clip: float = 3e-4,
    clip_high: float = 4e-4,
    level: Level = "sequence",
    epochs: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """Group Sequence Policy Optimization: one ratio for a whole answer, the mean over its tokens.

    s_i = exp((1/T_i) sum_t log p(y_t) - log mu(y_t));
    L = -(1/B) sum_i min(s_i A_i, clip(s_i, 1-clip, 1+clip_high) A_i), A and mu as in `grpo`.

    Source: Group Sequence Policy Optimization, arXiv 2507.18071. Its clips are a thousandth of
    those of a token's ratio: 0.2 would never be at work.
    Needs: `answer`. Detached: advantages and old log-probabilities. No KL term.
    Shapes: one value per own token, the same along a row. Raises: as `grpo`.
    Degenerates to: `grpo` at ratio 1, as on the first of several epochs.

    Args:
        clip, clip_high: the ratio counts within 1 - clip and 1 + clip_high only.
        level: of the ratio; "sequence_token" (GSPO-token) has its value and the gradient of each
            token, the same for one advantage per row; "token" is that of `grpo`.
        epochs: the paper makes 4 updates on the rollouts of a step, each on a quarter of them.
        correct, cap: as in `grpo`; not of the paper.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    return policy_gradient(
        Sample(n, length, Law(temperature, top_k, top_p)),
        lambda batch, models: group_advantage(batch),
        Surrogate(level=level, low=clip, high=clip_high, correct=correct, cap=cap),
        normalised("sequence", length),
        epochs=epochs,
    )
