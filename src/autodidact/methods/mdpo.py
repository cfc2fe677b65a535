from __future__ import annotations

from autodidact.credits.guesses import guessed, step_advantage, widest_steps
from autodidact.credits.visited import Visits
from autodidact.engines.denoise import Denoise, Order
from autodidact.law import Law
from autodidact.losses.policy import KL, Surrogate, policy_gradient
from autodidact.losses.weights import sequence_mean
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample


@factory
def mdpo(
    n: int = 8,
    length: int = 512,
    steps: int | None = 128,
    block: int | None = 128,
    order: Order = "confidence",
    kept: int = 8,
    clip: float = 0.2,
    kl: float = 0.02,
    kl_kind: KL = "k2",
    epochs: int = 1,
    temperature: float = 0.4,
) -> Method:
    """MDPO: the full prediction at every step of a masked model is graded, and its changes count.

    x0_s is the text with all that is hidden at step s filled in at once, r_s its reward;
    A_s = ((r_s - r_{s-1}) + mean_{s'>s} r_{s'} - mean) / (std + 1e-4), over the group at step s
    (r_S alone at the last step); the `kept` steps of a group with the largest sum of |A_s| are
    learned from: L = (1/N) sum_s (1/M_s) sum_k c_k [-min(rho A_s, clip(rho, 1-clip, 1+clip) A_s)
    + kl * k2], k the M_s hidden places, rho of x0_s there, c_k its probability.

    Source: MDPO: Overcoming the Training-Inference Divide of Masked Diffusion Language Models,
    arXiv 2508.13148. Predictions are read again, with likeliest words where they were not kept.
    Needs: `answer`. Detached: advantages, probabilities c, the old law and the reference.
    Shapes: one value per hidden place of each canvas that is kept.
    Raises: ValueError for n < 2 or kept < 1, and before the run on a causal model or problems
    without answers.
    Degenerates to: for one step of all places, REINFORCE with a group baseline on the one-step
    law, weighed by confidence.

    Args:
        steps, block, order: how rollouts are written, see `engines.denoise`; for evaluation the
            paper has remask="running".
        kept: steps of a group that are learned from.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    if kept < 1:
        raise ValueError(f"kept={kept} steps must be at least 1")
    return policy_gradient(
        Sample(n, length, Law(temperature), engine=Denoise(steps, block, order)),
        lambda batch, models: widest_steps(step_advantage(guessed(batch, models)), kept),
        Surrogate(low=clip, kl=kl, kl_kind=kl_kind, reading=Visits()),
        lambda batch: sequence_mean(batch) * batch.take("confidence"),
        epochs=epochs,
    )
