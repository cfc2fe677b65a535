from __future__ import annotations

from autodidact.credits.group import group_mean, group_sum
from autodidact.credits.returns import k1_penalty
from autodidact.law import Law
from autodidact.losses.importance import Correct
from autodidact.losses.policy import Surrogate, policy_gradient
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample
from autodidact.view import plain


@factory
def rloo(
    n: int = 4,
    length: int = 1024,
    kl: float = 0.0,
    normalise: Normalise = "sum",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """REINFORCE leave-one-out: every answer is compared with the mean of the others.

    A_i = R_i - (1/(n-1)) sum_{j != i} R_j;  L = -(1/B) sum_i A_i sum_t log p(y_t), with
    R_i - kl sum_t log p/r of the reference r in place of R_i. On fresh tokens its mean is the
    exact gradient of the expected reward. TRL adds a clipped ratio of whole answers, which is 1
    in the first update.

    Source: Back to Basics, arXiv 2402.14740. The penalty is of its RLHF setting.
    Needs: `answer`. Detached: advantages, and the log-ratio within the reward.
    Shapes: one value per own token.
    Raises: ValueError for n < 2, and before the run on problems without answers.
    Degenerates to: n/(n-1) times the direction of `dr_grpo` at ratio 1. A row whose fellows could
    not be scored teaches nothing (verl's loop gives it A = R, its vectorised form 0 as here).

    Args:
        kl: weight in the reward of the log-ratio to the initial weights (0.05 in TRL).
        normalise: "sum" over the tokens of a row as in the paper and TRL; the others of `grpo`.
        correct, cap: as in `grpo`; not of the paper.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")

    def worth(batch, models):
        reward = batch.take("reward")
        if not kl:
            return reward
        reference = models.score(plain(batch, "initial"), batch).logp
        return reward + kl * k1_penalty(batch, batch.take("raw"), reference).sum(1)

    def credit(batch, models):
        reward = worth(batch, models)
        scored = group_sum((~reward.isnan()).to(reward.dtype), batch.group)
        apart = reward - group_mean(reward, batch.group)
        advantage = (apart * scored / (scored - 1).clamp(min=1)).nan_to_num()
        return batch.put(advantage=advantage[:, None] * batch.own)

    return policy_gradient(
        Sample(n, length, Law(temperature, top_k, top_p)),
        credit,
        Surrogate("none", correct=correct, cap=cap),
        normalised(normalise, length),
        roles=("initial",) if kl else (),
    )
