from __future__ import annotations

from dataclasses import replace

from autodidact.auxiliary import Auxiliary
from autodidact.credits.opening import choice_mean, choices, ordered_loss, per_action, with_states
from autodidact.credits.unmasking import Opener
from autodidact.credits.visited import Visits
from autodidact.engines.unmask import Unmask
from autodidact.law import Law
from autodidact.losses.policy import Surrogate, policy_gradient
from autodidact.method import Method, factory
from autodidact.rollouts.opened import Opened


@factory
def dcolt(
    n: int = 16,
    length: int = 256,
    steps: int | None = 64,
    block: int | None = 256,
    clip: float = 0.2,
    head_lr: float = 5e-6,
    temperature: float = 1.0,
) -> Method:
    """DCoLT: what to write and where to write it next are one sequence of actions, both learned.

    At step s a head scores the hidden places, h, and an ordered set o_1..o_K of them is drawn:
    log P_s = sum_k [h_{o_k} - log sum_{j not yet taken} e^{h_j}] + sum_k log p(x_{o_k} | x_s).
    A = (R - mean) / (std + 1e-4) of the group, the same for all steps;
    L = -(1/B) sum_i (1/S_i) sum_s A_i log P_s, S_i the steps; tokens with the clipped ratio, and
    no term for the order where all places left of a block are opened.

    Source: Reinforcing the Diffusion Chain of Lateral Thought with Diffusion Language Models,
    arXiv 2505.10446. There the head's gradient also reaches the model below, and steps have one
    ratio of both parts, which is 1 on the one update of a batch; the head is `Opener`.
    Needs: `answer`. Detached: advantages, the old law, and the states that the head reads.
    Shapes: one value for each own token of each canvas visited, and one a canvas for the head.
    Raises: ValueError for n < 2, and before the run on a causal model or problems without answers.
    Degenerates to: REINFORCE on the trace with a group baseline where the order is given.

    Args:
        steps, block: how rollouts are written, see `engines.denoise`.
        head_lr: learning rate of the head. Evaluation does not use it: the order there is that of
            the engine of the run.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    head = Auxiliary("opener", Opener, ordered_loss, choice_mean, head_lr)
    method = policy_gradient(
        Opened(n, length, Law(temperature), Unmask(steps, block), head),
        lambda batch, models: with_states(choices(batch, block), models),
        Surrogate(low=clip, reading=Visits()),
        per_action,
    )
    return replace(method, auxiliaries=(head,), stale=False)
