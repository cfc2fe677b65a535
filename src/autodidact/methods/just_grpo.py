from __future__ import annotations

from autodidact.credits.group import Scale, group_advantage
from autodidact.engines.denoise import Denoise
from autodidact.law import Law
from autodidact.losses.likelihood import Likelihood
from autodidact.losses.policy import KL, Surrogate, policy_gradient
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample


@factory
def just_grpo(
    n: int = 16,
    length: int = 256,
    clip: float = 0.2,
    kl: float = 0.0,
    scale: Scale = "std",
    normalise: Normalise = "constant",
    epochs: int = 1,
    temperature: float = 1.0,
    kl_kind: KL = "k3",
) -> Method:
    """JustGRPO: a masked model is trained from left to right, where its log p is exact.

    lp_t = log p(y_t | q, y_<t, all else hidden), one canvas for each token; rollouts are written
    in the same order, one token at a step, so that log p(y) = sum_t lp_t of what was drawn;
    L = -(1/(B length)) sum_i sum_t min(rho A_i, clip(rho, 1-clip, 1+clip) A_i) + kl * k3,
    rho = exp(lp - lp_old), A_i as in `grpo`. Afterwards any order of decoding may be used.

    Source: JustGRPO, "The Flexibility Trap", arXiv 2601.15165. The release learns from all places
    of an answer, also those behind its end; here the last is the first that ends the text.
    Needs: `answer`. Detached: advantages, lp_old and the reference. An update reads as many
    canvases of a row as it has tokens, and with more than one epoch as many more before.
    Shapes: one value per own token.
    Raises: ValueError for n < 2, and before the run on a causal model or problems without answers.
    Degenerates to: `grpo` on a causal model with these conditionals; for epochs=1 REINFORCE with a
    group baseline.

    Args:
        scale, normalise, kl, kl_kind: as in `grpo`.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    return policy_gradient(
        Sample(n, length, Law(temperature), engine=Denoise(order="left")),
        lambda batch, models: group_advantage(batch, scale),
        Surrogate(
            low=clip, kl=kl, kl_kind=kl_kind,
            reading=Likelihood("left", ratio=epochs > 1),
        ),
        normalised(normalise, length),
        epochs=epochs,
    )  # fmt: skip
