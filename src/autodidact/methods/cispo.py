from __future__ import annotations

from autodidact.credits.group import group_advantage
from autodidact.law import Law
from autodidact.losses.policy import Surrogate, policy_gradient
from autodidact.losses.weights import normalised
from autodidact.method import Method, factory
from autodidact.rollouts.choose import WithSpread
from autodidact.rollouts.sample import Sample


@factory
def cispo(
    n: int = 16,
    length: int = 1024,
    clip_high: float = 4.0,
    clip: float | None = None,
    epochs: int = 1,
    waves: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Method:
    """CISPO: the weight of a token is cut, never its gradient.

    L = -(1/sum_i T_i) sum_i sum_t sg[clip(rho, 1-clip, 1+clip_high)] A_i log p(y_t), A and rho as
    in `grpo`. Rare words that an update made likelier keep on learning.

    Source: MiniMax-M1, arXiv 2506.13585; it cuts above only and leaves the width open. The default
    is the cap of 5 of ScaleRL, arXiv 2510.13786.
    Needs: `answer`. Detached: ratios, advantages and old log-probabilities. No KL term.
    Shapes: one value per own token. Raises: as `grpo`.
    Degenerates to: REINFORCE, and so the gradient of `grpo` with a mean over tokens, at ratio 1.

    Args:
        clip_high: the ratio counts up to 1 + clip_high, as in the paper and in verl. TRL's
            `epsilon_high` is that bound itself: its 5.0 is clip_high=4.0 here.
        clip: it counts from 1 - clip on; `None` for no lower bound (1 or more in verl).
        waves: as in `dapo`.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    sample = Sample(n, length, Law(temperature, top_k, top_p))
    return policy_gradient(
        WithSpread(sample, waves) if waves > 1 else sample,
        lambda batch, models: group_advantage(batch),
        Surrogate("cap", low=1.0 if clip is None else clip, high=clip_high),
        normalised("token", length),
        epochs=epochs,
    )
