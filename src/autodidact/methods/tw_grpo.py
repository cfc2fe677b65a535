from __future__ import annotations

from autodidact.credits.group import Scale, group_advantage
from autodidact.credits.scaling import minmax
from autodidact.groupwise import Apart, disagreement
from autodidact.law import Law
from autodidact.losses.importance import Correct
from autodidact.losses.policy import Surrogate, policy_gradient
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample
from autodidact.view import plain


@factory
def tw_grpo(
    n: int = 8,
    length: int = 1024,
    alpha: float = 1.7,
    apart: Apart = "divergence",
    clip: float = 0.2,
    clip_high: float = 0.28,
    scale: Scale = "std",
    normalise: Normalise = "token",
    epochs: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """TW-GRPO: token-weighted GRPO, places where a group's next-token laws differ weigh more.

    D_t = H(mean_i p_i) - mean_i H(p_i), over the laws p_i of the group's rows at their t-th token;
    w_t = 1 + (alpha - 1) (D_t - min D) / (max D - min D), over the places of the group, and 1 where
    all D are equal; A_t = w_t A with A of `grpo`;
    L = -(1/sum_i T_i) sum_i sum_t w_t min(rho A, clip(rho, 1-clip, 1+clip_high) A).

    Source: Reinforcing Video Reasoning with Focused Thinking, arXiv 2505.24718. The release takes
    another D (apart="released"), and lets the gradient flow through it; here w is always detached.
    Its soft reward for several choices is that of the task `choices`.
    Needs: `answer`. Detached: w, A and old log-probabilities. No KL term.
    Shapes: one value per own token. Raises: ValueError for n < 2 or alpha < 1, an unknown `apart`.
    Degenerates to: `grpo` with a mean over tokens for alpha=1, or where all rows are alike.

    Args:
        alpha: the largest weight; the default of the release is 1.4, its script's 1.7.
        apart: which D, see `groupwise.disagreement`.
        clip, clip_high, scale, normalise, correct, cap: as in `grpo`.
    """
    if n < 2 or alpha < 1:
        raise ValueError(
            f"n={n} and alpha={alpha}: a group needs at least 2 completions to compare, and the "
            "largest weight is at least 1"
        )

    def credit(batch, models):
        batch = group_advantage(batch, scale)
        gap = disagreement(models.score(plain(batch), batch), batch.group, apart)
        focus = 1 + (alpha - 1) * minmax(gap, batch.own, batch.group)
        return batch.put(advantage=batch.take("advantage") * focus, focus=focus * batch.own)

    return policy_gradient(
        Sample(n, length, Law(temperature, top_k, top_p)),
        credit,
        Surrogate(low=clip, high=clip_high, correct=correct, cap=cap),
        normalised(normalise, length),
        epochs=epochs,
    )
