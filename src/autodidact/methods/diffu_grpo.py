from __future__ import annotations

from autodidact.credits.group import group_advantage
from autodidact.engines.denoise import Denoise, Order
from autodidact.law import Law
from autodidact.losses.likelihood import Likelihood
from autodidact.losses.policy import KL, Surrogate, policy_gradient
from autodidact.method import Method, factory, token_mean
from autodidact.rollouts.sample import Sample


@factory
def diffu_grpo(
    n: int = 6,
    length: int = 256,
    steps: int | None = 128,
    block: int | None = 32,
    order: Order = "confidence",
    prompt: float = 0.15,
    clip: float = 0.5,
    kl: float = 0.04,
    epochs: int = 12,
    temperature: float = 0.9,
    kl_kind: KL = "k3",
) -> Method:
    """diffu-GRPO (d1): GRPO for masked models, by the chance of each token with all hidden.

    lp_t = log p(y_t | q, all of y hidden), q the prompt with each token hidden by chance `prompt`,
    anew for each update on a rollout, and the same for policy, old and reference;
    A_i = R_i - mean R of the group;
    L = -(1/sum_i T_i) sum_i sum_t [min(rho A, clip(rho, 1-clip, 1+clip) A)] + kl * k3,
    rho = exp(lp - lp_old), T_i the tokens up to the first that ends the text.

    Source: d1: Scaling Reasoning in Diffusion Large Language Models via Reinforcement Learning,
    arXiv 2504.12216.
    Needs: `answer`. Detached: advantages, lp_old and the reference. lp ignores how tokens depend on
    one another: it is log p only where they do not.
    Shapes: one value per own token.
    Raises: ValueError for n < 2, and before the run on a causal model or problems without answers.
    Degenerates to: REINFORCE with a group baseline for epochs=1.

    Args:
        steps, block, order: how rollouts are written, see `engines.denoise`.
        prompt: the chance that a prompt token is hidden when lp is read.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    return policy_gradient(
        Sample(n, length, Law(temperature), engine=Denoise(steps, block, order)),
        lambda batch, models: group_advantage(batch, "none"),
        Surrogate(
            low=clip, kl=kl, kl_kind=kl_kind,
            reading=Likelihood("one_step", sets=epochs, prompt=prompt),
        ),
        token_mean,
        epochs=epochs,
    )  # fmt: skip
