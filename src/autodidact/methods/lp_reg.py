from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from autodidact.credits.group import group_advantage
from autodidact.credits.quantile import highest
from autodidact.law import Law
from autodidact.losses.importance import Correct
from autodidact.losses.policy import Surrogate, k3, policy_gradient
from autodidact.method import Method, factory, token_mean
from autodidact.names import choose
from autodidact.rollouts.sample import Sample

Form = Literal["full", "sampled"]


@factory
def lp_reg(
    n: int = 8,
    length: int = 1024,
    share: float = 0.01,
    beta: float = 1.0,
    kappa: float = 0.02,
    bound: float = 10.0,
    form: Form = "full",
    epochs: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """Low-probability Regularization: rare but plausible tokens are not punished to death.

    L = -(1/sum_i T_i) sum_i sum_t [clip(rho, 0, bound) A - beta 1_t KL(q || p)], A and rho of
    `grpo`, q = p on the words above kappa times the likeliest, renormalised. 1_t: log p(y_t) is
    among the lowest `share` of the batch, A < 0, and q(y_t) > 0. At p the KL is -log of what
    those words hold, and its gradient in the logits p - q.

    Source: Low-probability Tokens Sustain Exploration, arXiv 2510.03222. Its release takes the
    lowest among tokens with A < 0, leaves their ratio unclipped, and k3 at the sampled token in
    place of the KL (form="sampled"). Off-policy the paper's q is the old policy; here it is p.
    Needs: `answer`. Detached: A, 1_t, q. Shapes: one value per own token.
    Raises: ValueError for n < 2, shares outside 0 to 1, beta below 0, a bound below 1.
    Degenerates to: PPO with a truncated ratio for beta=0; tokens that q leaves out are never
    helped, and nothing is learned from a group whose rewards are equal.

    Args:
        share: which tokens are rare; the paper takes 0.01 at 14B and 0.005 at 32B.
        beta: weight of the KL.
        kappa: words below this share of the likeliest are noise (min-p).
        bound: of the ratio; there is no lower one.
        form: "full" is over the whole vocabulary, "sampled" k3 of log q - log p at the token.
        correct, cap: as in `grpo`; not of the paper.
    """
    choose("form", form, get_args(Form))
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    if not (0 <= share <= 1 and 0 <= kappa < 1 and beta >= 0 and bound >= 1):
        raise ValueError(
            f"share={share}, kappa={kappa}, beta={beta}, bound={bound}: allowed are a share from "
            "0 to 1, kappa from 0 to below 1, beta of at least 0 and a bound of at least 1"
        )

    def credit(batch, models):
        batch = group_advantage(batch)
        rare = highest(-batch.take("raw"), batch.own, share) & (batch.take("advantage") < 0)
        return batch.put(rare=rare.to(batch.take("advantage").dtype))

    # Dual clipping at the same bound keeps the ratio of a negative advantage below it, too.
    truncated = Surrogate(low=1.0, high=bound - 1, dual=bound, correct=correct, cap=cap)
    method = policy_gradient(
        Sample(n, length, Law(temperature, top_k, top_p)), credit, truncated, token_mean,
        epochs=epochs,
    )  # fmt: skip

    def loss(scores, batch):
        value, policy = truncated.loss(scores, batch), scores["policy"]
        if beta == 0:
            return value
        extra = policy.filtered(kappa)
        kept = policy.notes["kept"]
        if form == "sampled":
            logp = policy.logp
            extra = k3(logp, logp.detach() + extra.detach())
        return value + beta * batch.take("rare") * kept * extra

    return replace(method, loss=loss)
