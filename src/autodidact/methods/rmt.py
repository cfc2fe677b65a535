from __future__ import annotations

import torch

from autodidact.credits.group import Scale, group_advantage
from autodidact.losses.importance import both_laws
from autodidact.losses.policy import clipped
from autodidact.method import Method, factory
from autodidact.parallel import total
from autodidact.rollouts.positions import Positions


@factory
def rmt(
    n: int = 8,
    positions: int = 1,
    budget: int = 800,
    shrink: float = 0.2,
    weight: float = 0.1,
    ntp: float = 0.1,
    over: int = 1000,
    marker: str = "Next:",
    clip: float = 0.2,
    clip_high: float | None = None,
    scale: Scale = "std",
    epochs: int = 1,
) -> Method:
    """Reinforcement Mid-Training: a few hard tokens of a text are thought about, the rest is read.

    Of each text some tokens are guessed after thinking; r = (1-w) 1[guess = token] + w l(T), where
    l rises to 1 at the budget B_t = max(1, floor(B_0 shrink^t)) and falls to 0 at 2 B_t; A as in
    `grpo` over the n guesses about one token; t is the share of `over` updates that are made.
    L = -(1/guesses) sum_i (1/T_i) sum_t min(rho A_i, clip(rho) A_i)
    - ntp (1/N) sum log p(y_t), over the N tokens of the texts that are not guessed.

    Source: Reinforcement Mid-Training, arXiv 2509.24375. It prints no w, no height of l and no
    tiers of entropy: a weight of 0.1, a height of 1 and thirds of each text are chosen here, and
    so are the chances of the tiers (`rollouts.positions`).
    Needs: `solution`, which is the text. Detached: advantages, the law that drew. No KL term.
    Shapes: one value per own token, of guesses and of texts.
    Raises: ValueError for n < 2 and for numbers out of range; when drawing, for rows that do not
    fit the context.
    Degenerates to: reinforcement pre-training (RPT, 2506.08007), `grpo` with the reward of a match,
    for ntp=0 and weight=0; `sft` on the rest of each text where all guesses earn the same.

    Args:
        n: guesses about one token.
        positions: tokens guessed of each text.
        budget, shrink, over, marker: see `rollouts.positions.Positions`.
        weight: w, of the length in the reward.
        ntp: weight of the text's own likelihood; 0 leaves its rows out.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 guesses to compare")
    if ntp < 0:
        raise ValueError(f"ntp={ntp} is not allowed: it must be at least 0")
    high = clip if clip_high is None else clip_high

    def loss(scores, batch):
        now, then = both_laws(scores["policy"], batch)
        guessed = batch.take("kind")[:, None] == 1
        return torch.where(guessed, clipped(now, then, batch.take("advantage"), clip, high), -now)

    def weigh(batch):
        guess = batch.take("kind") == 1
        rows = total(guess.sum()).clamp(min=1)
        tokens = total((batch.own & ~guess[:, None]).sum()).clamp(min=1)
        size = batch.own.sum(1).clamp(min=1)
        return batch.own * torch.where(guess, 1 / (rows * size), ntp / tokens)[:, None]

    return Method(
        Positions(n, positions, budget, shrink, weight, over, marker, corpus=ntp > 0),
        loss,
        lambda batch, models: group_advantage(batch, scale),
        weigh=weigh,
        needs=("solution",),
        epochs=epochs,
        stale=True,
        signal=lambda scores, batch, values: batch.take("advantage"),
        signal_name="advantage",
    )
