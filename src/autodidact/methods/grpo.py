from __future__ import annotations

from autodidact.credits.group import Scale, group_advantage
from autodidact.law import Law
from autodidact.losses.importance import Correct
from autodidact.losses.policy import KL, Surrogate, policy_gradient
from autodidact.losses.weights import Normalise, finished, normalised
from autodidact.method import Method, factory
from autodidact.rollouts.choose import WithSpread
from autodidact.rollouts.sample import Sample


@factory
def grpo(
    n: int = 8,
    length: int = 1024,
    clip: float = 0.2,
    clip_high: float | None = None,
    kl: float = 0.0,
    scale: Scale = "std",
    normalise: Normalise = "sequence",
    epochs: int = 1,
    waves: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
    kl_kind: KL = "k3",
    eps: float = 1e-4,
    dual: float | None = None,
    entropy: float = 0.0,
    mask_truncated: bool = False,
) -> Method:
    """Group Relative Policy Optimization: rewards compared within the answers to one question.

    A_i = (R_i - mean R) / (std R + eps) over the group (std with n - 1), the same at every token;
    L = -(1/B) sum_i (1/T_i) sum_t min(rho A, clip(rho, 1-clip, 1+clip_high) A) + kl * k3,
    rho = p(y_t) / mu(y_t), mu the law that drew y; with top_k or top_p both are renormalised over
    the words that were left. With `correct` rho = p / p_old, p_old the trainer's own before the
    update, and the first term is multiplied by the weight of p_old / mu, as in verl and TRL.

    Source: DeepSeekMath, arXiv 2402.03300. The paper's kl is 0.04; recipes since use 0.
    Needs: `answer`. Detached: advantages, weights, old and reference log-probabilities. k3 has
    the value of KL(policy, reference), while its gradient is that of KL(reference, policy).
    Shapes: one value per own token.
    Raises: ValueError for n < 2 or a cap < 1, and before the run on problems without answers.
    Degenerates to: REINFORCE with a group baseline for epochs=1 (the ratio is 1, nothing is
    clipped); nothing is learned from a group whose rewards are equal.

    Args:
        clip: the ratio counts within 1 - clip and 1 + clip_high only.
        clip_high: upper clip width; `clip` by default.
        kl: weight of the divergence to the initial weights.
        scale: "none" leaves out the division by the standard deviation (Dr. GRPO).
        normalise: "sequence" as in the paper, "token" (DAPO), "constant" = `length` (Dr. GRPO).
        waves: above 1, groups without spread are replaced from that many times as many problems.
        correct: weigh tokens drawn by another engine or older weights: by "token", by "sequence",
            or "mask" those too far apart.
        cap: of those weights.
        kl_kind: "k3" as in the paper; "k2", "k3_plus" (verl) and "k3_ratio" (TRL) have the gradient
            of KL(policy, reference), see `losses.policy.penalty`.
        eps: 1e-4 as in TRL; 1e-6 in verl, 1e-9 in OpenRLHF.
        dual: the loss of a negative advantage is at most -dual A (3 in verl, `delta` in TRL).
        entropy: weight of a bonus for the entropy of the law.
        mask_truncated: rows that ran out of length weigh nothing, but count in their group's mean.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    sample = Sample(n, length, Law(temperature, top_k, top_p))
    weigh = normalised(normalise, length)
    return policy_gradient(
        WithSpread(sample, waves) if waves > 1 else sample,
        lambda batch, models: group_advantage(batch, scale, eps),
        Surrogate(
            low=clip, high=clip_high, dual=dual, correct=correct, cap=cap, kl=kl, kl_kind=kl_kind,
            entropy=entropy,
        ),
        finished(weigh) if mask_truncated else weigh,
        epochs=epochs,
    )  # fmt: skip
