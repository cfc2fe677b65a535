from __future__ import annotations

from dataclasses import replace

import torch

from autodidact.credits.group import group_advantage
from autodidact.law import Law
from autodidact.losses.policy import KL, Surrogate, policy_gradient
from autodidact.losses.weights import Normalise, normalised, row_mean
from autodidact.method import Method, factory
from autodidact.rollouts.paths import given_ids
from autodidact.rollouts.sample import Sample


@factory
def degrpo(
    n: int = 8,
    length: int = 1024,
    alpha: float = 0.001,
    short: str = "<short>",
    think: str = "<think>",
    thought: float = 0.5,
    clip: float = 0.2,
    clip_high: float | None = None,
    kl: float = 0.001,
    normalise: Normalise = "sequence",
    epochs: int = 1,
    temperature: float = 0.6,
    kl_kind: KL = "k3",
) -> Method:
    """Decoupled GRPO (Thinkless): the first token chooses how to answer, and is weighed apart.

    L = (1/B) sum_i [alpha l_i0 + (1/T_i) sum_{t>=1} l_it],
    l = -min(rho A, clip(rho, 1-clip, 1+clip_high) A) + kl k3, T_i the tokens after the first;
    A_i = R_i - mean R; R = 1 for right after `short`, `thought` for right after `think`, else -1.

    Source: Thinkless: LLM Learns When to Think, arXiv 2505.13379. The release divides the sum over
    t by the tokens of the batch instead: normalise="token".
    Needs: `answer`, and a policy warmed up to begin with one of two tokens of its vocabulary.
    Detached: rewards, advantages, the reference, old log-probabilities.
    Shapes: one value per own token.
    Raises: ValueError for n < 2, a negative alpha, equal control texts, and on the first batch
    for one that is not a single token; before the run on problems without answers.
    Degenerates to: with normalise="token" and alpha = rows / later tokens `grpo` with
    scale="none" on these rewards, in steps 1 + alpha as large; with alpha=0 the choice of the
    mode is not trained.

    Args:
        alpha: weight of the control token.
        short, think: the control tokens, as text.
        thought: reward of a right answer after `think`.
        kl, kl_kind, normalise: as in `grpo`; the latter of the tokens after the first.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    if alpha < 0:
        raise ValueError(f"alpha={alpha} must be at least 0")
    if short == think:
        raise ValueError(f"short and think are both {short!r}: two modes need two tokens")
    later = normalised(normalise, length)

    def credit(batch, models):
        mode = batch.ids.gather(1, batch.own.int().argmax(1, keepdim=True)).squeeze(1)
        right, worth = batch.take("correct"), torch.full_like(batch.take("correct"), -1.0)
        for text, reward in ((short, 1.0), (think, thought)):
            worth[(mode == _token(models.policy, text)) & (right == 1)] = reward
        worth[right.isnan()] = torch.nan
        return group_advantage(batch.put(reward=worth), "none")

    def weigh(batch):
        control = batch.own & (batch.own.cumsum(1) == 1)
        after = replace(batch, own=batch.own & ~control)
        return alpha * control * row_mean(batch)[:, None] + later(after)

    return policy_gradient(
        Sample(n, length, Law(temperature)),
        credit,
        Surrogate(low=clip, high=clip_high, kl=kl, kl_kind=kl_kind),
        weigh,
        epochs=epochs,
    )


def _token(lm, text: str) -> int:
    """The id of a control token; `ValueError` where the text is none, or several."""
    ids = given_ids(lm, text)
    if len(ids) != 1:
        raise ValueError(
            f"{text!r} is {len(ids)} tokens for {lm.name!r}: a control token is one; add it to "
            "the vocabulary, or take another text"
        )
    return ids[0]
