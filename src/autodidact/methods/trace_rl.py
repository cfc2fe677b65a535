from __future__ import annotations

from autodidact.credits.group import Scale, group_advantage
from autodidact.engines.denoise import Denoise, Order
from autodidact.law import Law
from autodidact.losses.likelihood import Likelihood
from autodidact.losses.policy import KL, Surrogate, policy_gradient
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample


@factory
def trace_rl(
    n: int = 8,
    length: int = 256,
    steps: int | None = 128,
    block: int | None = 32,
    order: Order = "confidence",
    shrink: int = 8,
    clip: float = 0.2,
    kl: float = 0.01,
    scale: Scale = "std",
    normalise: Normalise = "token",
    epochs: int = 1,
    temperature: float = 0.8,
    kl_kind: KL = "k3",
) -> Method:
    """TraceRL: GRPO on the canvases that a rollout really visited.

    lp_t = log p(y_t | the canvas of the step at which y_t was written), `shrink` steps in a row
    taken as one; A as in `grpo`;
    L = -(1/sum_i T_i) sum_i sum_t [min(rho A, clip(rho, 1-clip, 1+clip) A)] + kl * k3,
    rho = exp(lp - lp_old).

    Source: Revolutionizing Reinforcement Learning Framework for Diffusion Large Language Models,
    arXiv 2509.06949, whose value head, for credit by step, is left out.
    Needs: `answer`. Detached: advantages, lp_old and the reference; which place is written at a
    step is taken as given.
    Shapes: one value per own token. A row is read once for each step of its own.
    Raises: ValueError for n < 2, and before the run on a causal model or problems without answers.
    Degenerates to: `grpo` in the order in which the tokens were written, for shrink=1 and one token
    a step; to one canvas with all hidden where shrink covers all steps.

    Args:
        steps, block, order: how rollouts are written, see `engines.denoise`.
        shrink: 8 for models that read both ways, 1 for block models.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    return policy_gradient(
        Sample(n, length, Law(temperature), engine=Denoise(steps, block, order)),
        lambda batch, models: group_advantage(batch, scale),
        Surrogate(
            low=clip, kl=kl, kl_kind=kl_kind,
            reading=Likelihood("trace", shrink=shrink),
        ),
        normalised(normalise, length),
        epochs=epochs,
    )  # fmt: skip
