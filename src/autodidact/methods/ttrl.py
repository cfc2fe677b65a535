from __future__ import annotations

from dataclasses import replace

from autodidact.credits.group import Scale
from autodidact.law import Law
from autodidact.losses.importance import Correct
from autodidact.losses.policy import KL
from autodidact.losses.weights import Normalise
from autodidact.method import Method, factory
from autodidact.methods.grpo import grpo
from autodidact.rollouts.votes import Votes


@factory
def ttrl(
    n: int = 64,
    length: int = 1024,
    keep: int = 32,
    clip: float = 0.2,
    clip_high: float | None = None,
    kl: float = 0.001,
    scale: Scale = "std",
    normalise: Normalise = "sequence",
    epochs: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
    kl_kind: KL = "k3",
) -> Method:
    """Test-time reinforcement learning: the majority is right.

    R_i = 1 where the final answer is the one that most of the n completions give, else 0;
    A_i = (R_i - mean R) / (std R + 1e-4) over the `keep` rows; L as in `grpo`, with kl * k3.

    Source: TTRL: Test-Time Reinforcement Learning, arXiv 2504.16084. Its release lets a missing
    answer win a vote; here it has no vote, and ties go to the answer seen first.
    Needs: the `question` alone; the task must find a `final` answer in a completion. Detached:
    advantages and old log-probabilities. A majority that is wrong is learned all the same.
    Shapes: one value per own token.
    Raises: ValueError for keep < 2 or above n, and as `grpo`; when drawing, a task without `final`.
    Degenerates to: `grpo` where the majority is right everywhere; nothing is learned from a group
    that agrees.

    Args:
        n: completions that vote on a problem.
        keep: how many of them, the first, are learned from.
        clip, clip_high, kl, scale, normalise, correct, cap, kl_kind: as in `grpo`.
    """
    if keep < 2:
        raise ValueError(f"keep={keep}: a group needs at least 2 completions to compare")
    base = grpo(
        keep, length, clip, clip_high, kl, scale, normalise, epochs,
        correct=correct, cap=cap, kl_kind=kl_kind,
    )  # fmt: skip
    rollout = Votes(n, length, keep, Law(temperature, top_k, top_p))
    return replace(base, rollout=rollout, needs=())
