from __future__ import annotations

import torch

from autodidact.auxiliary import Auxiliary
from autodidact.credits.opening import (
    chance_loss,
    choice_mean,
    choices,
    faster,
    per_action,
    with_sureness,
)
from autodidact.credits.unmasking import Threshold
from autodidact.engines.unmask import Adaptive
from autodidact.law import Law
from autodidact.method import Method, factory
from autodidact.rollouts.opened import Opened
from autodidact.view import noised


@factory
def speed_rl(
    n: int = 8,
    length: int = 256,
    block: int | None = None,
    alpha: float = 1.0,
    width: int = 16,
    head_lr: float = 1e-3,
    temperature: float = 1.0,
) -> Method:
    """Speed by reinforcement: a small policy learns how many places a frozen model opens at once.

    At every step it reads how sure the model is of each hidden place, and opens each with a chance
    of its own, at least the likeliest one; R = r (1 - steps / places)^alpha;
    A = (R - mean) / (std + 1e-4) of the group;
    L = -(1/B) sum_i (1/S_i) sum_s A_i log P(places opened at s), for the small policy alone.

    Source: Learning Unmasking Policies for Diffusion Language Models, arXiv 2512.09106, in place of
    Speed-RL for masked image generators, arXiv 2512.01094, whose formulas are not public. A bonus
    that is added, not multiplied, also pays for wrong answers.
    Needs: `answer`. Detached: advantages, and how sure the model is; the model learns nothing.
    Shapes: one value a canvas visited.
    Raises: ValueError for n < 2, alpha < 0, and before the run on a causal model or problems
    without answers.
    Degenerates to: a group-baseline policy that learns quality alone for alpha=0.

    Args:
        block: places of a block; all of the canvas by default.
        alpha: what speed counts, against quality; 0 for nothing.
        width, head_lr: of the small policy, see `credits.unmasking.Threshold`. Evaluation does not
            use it: the order there is that of the engine of the run.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    if alpha < 0:
        raise ValueError(f"alpha={alpha} must be at least 0: below, slowness would be paid for")
    head = Auxiliary("opener", lambda size: Threshold(width), chance_loss, choice_mean, head_lr)

    def credit(batch, models):
        return with_sureness(choices(faster(batch, alpha), block), models)

    def views(batch, models):
        return {"policy": noised(batch, models, batch.take("still") == 1, grad=False)}

    return Method(
        Opened(n, length, Law(temperature), Adaptive(block=block), head),
        lambda scores, batch: torch.zeros(batch.ids.shape, device=batch.ids.device),
        credit,
        views,
        per_action,
        needs=("answer",),
        masked=True,
        auxiliaries=(head,),
        signal=lambda scores, batch, values: batch.take("advantage"),
        signal_name="advantage",
    )
