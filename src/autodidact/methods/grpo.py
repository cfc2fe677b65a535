from __future__ import annotations

from autodidact.credits.group import Scale, group_advantage
from autodidact.law import Law
from autodidact.losses.policy import clipped, k3
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.rollouts.choose import WithSpread
from autodidact.rollouts.sample import Sample
from autodidact.view import plain


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
) -> Method:
    """Group Relative Policy Optimization: rewards compared within the answers to one question.

    A_i = (R_i - mean R) / (std R + 1e-4) over the group (std with n - 1), the same at every token;
    L = -(1/B) sum_i (1/T_i) sum_t min(rho A, clip(rho, 1-clip, 1+clip_high) A) + kl * k3.

    Source: DeepSeekMath, arXiv 2402.03300. The paper's kl is 0.04; recipes since use 0.
    Needs: `answer`. Detached: advantages, old and reference log-probabilities. k3 has the value
    of KL(policy, reference), while its gradient is that of KL(reference, policy).
    Shapes: one value per own token.
    Raises: ValueError for n < 2, and before the run on problems without answers.
    Degenerates to: REINFORCE with a group baseline for epochs=1 (the ratio is 1, nothing is
    clipped); nothing is learned from a group whose rewards are equal.

    Args:
        clip: the ratio counts within 1 - clip and 1 + clip_high only.
        clip_high: upper clip width; `clip` by default.
        kl: weight of the divergence to the initial weights.
        scale: "none" leaves out the division by the standard deviation (Dr. GRPO).
        normalise: "sequence" as in the paper, "token" (DAPO), "constant" = `length` (Dr. GRPO).
        waves: above 1, groups without spread are replaced from that many times as many problems.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    high = clip if clip_high is None else clip_high
    sample = Sample(n, length, Law(temperature))

    def credit(batch, models):
        return group_advantage(batch, scale)

    def views(batch, models):
        own = {"policy": plain(batch)}
        return own if kl == 0 else {**own, "reference": plain(batch, "initial")}

    def loss(scores, batch):
        logp = scores["policy"].logp
        value = clipped(logp, batch.take("raw"), batch.take("advantage"), clip, high)
        return value if kl == 0 else value + kl * k3(logp, scores["reference"].logp)

    return Method(
        WithSpread(sample, waves) if waves > 1 else sample,
        loss,
        credit,
        views,
        normalised(normalise, length),
        needs=("answer",),
        epochs=epochs,
        signal=lambda scores, batch, values: batch.take("advantage"),
        signal_name="advantage",
    )
