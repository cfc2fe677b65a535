from __future__ import annotations

from autodidact.credits.group import group_mean
from autodidact.credits.returns import at_end, k1_penalty, to_go
from autodidact.credits.scaling import whiten
from autodidact.law import Law
from autodidact.losses.importance import Correct
from autodidact.losses.policy import KL, Surrogate, policy_gradient
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample
from autodidact.view import plain


@factory
def reinforce_pp(
    n: int = 1,
    length: int = 1024,
    baseline: bool = False,
    clip: float = 0.2,
    clip_high: float | None = None,
    kl: float = 0.01,
    kl_kind: KL = "k2",
    gamma: float = 1.0,
    normalise: Normalise = "token",
    epochs: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """REINFORCE++: returns of tokens, brought to mean 0 and variance 1 over the whole batch.

    G_t = sum_{s>=t} gamma^(s-t) (1[s last] R - kl log p(y_s)/r(y_s));  A = (G - mean) / std over
    all tokens (variance of n);  L = -(1/sum_i T_i) sum_i sum_t min(rho A, clip(rho) A), rho and
    its clip as in `grpo`, r the initial weights. With `baseline` R is first compared with the mean
    of its group, and the penalty is a term of the loss, kl * k2, instead of a reward.

    Source: REINFORCE++, arXiv 2501.03262, both forms.
    Needs: `answer`. Detached: returns with the log-ratio in them, old and reference
    log-probabilities.
    Shapes: one value per own token.
    Raises: ValueError for `baseline` with n < 2, and before the run on problems without answers.
    Degenerates to: nothing is learned from a batch whose rewards are all equal, at kl=0; with
    equal lengths and one problem both forms are `grpo` with eps=0, but for its std with n - 1.

    Args:
        n: answers to a question; no group is needed without `baseline`.
        baseline: subtract the mean of the group (REINFORCE++-baseline).
        clip, clip_high: as in `grpo`.
        kl_kind: of the term of the loss; see `losses.policy.penalty`.
        gamma: discount of what comes later, counted in tokens.
    """
    if baseline and n < 2:
        raise ValueError(f"n={n}: a baseline of the group needs at least 2 completions")
    in_reward = kl != 0 and not baseline

    def credit(batch, models):
        reward = batch.take("reward")
        known = batch.own & ~reward.isnan()[:, None]
        if baseline:
            reward = reward - group_mean(reward, batch.group)
        rewards = at_end(reward, batch.own)
        if in_reward:
            reference = models.score(plain(batch, "initial"), batch).logp
            rewards = rewards + kl * k1_penalty(batch, batch.take("raw"), reference)
        return batch.put(advantage=whiten(to_go(rewards, batch.own, gamma), known))

    return policy_gradient(
        Sample(n, length, Law(temperature, top_k, top_p)),
        credit,
        Surrogate(
            low=clip, high=clip_high, correct=correct, cap=cap, kl=kl if baseline else 0.0,
            kl_kind=kl_kind,
        ),
        normalised(normalise, length),
        epochs=epochs,
        roles=("initial",) if in_reward else (),
    )  # fmt: skip
