from __future__ import annotations

from fractions import Fraction

import torch

from autodidact.credits.quantile import everywhere, highest
from autodidact.law import Law
from autodidact.losses.importance import Correct, both_laws, corrected
from autodidact.losses.policy import clipped
from autodidact.method import Method, factory
from autodidact.parallel import total
from autodidact.rollouts.sample import Sample
from autodidact.view import plain

EQUAL = 1e-6
"""Nats within which entropies are the same, as far as rounding lets one tell."""


@factory
def opsa(
    n: int = 1,
    length: int = 1024,
    share: float = 0.2,
    a_min: float = -1.0,
    a_max: float = -0.5,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """On-Policy Self-Adaptation: draw, and unlearn the least likely of one's own tokens.

    L = -(1/|S|) sum_{t in S} A_t log p(y_t), S the share of the tokens of the whole batch with the
    lowest log p(y_t) when drawn, A_t = a_max + (a_min - a_max) (H_t - H_min) / (H_max - H_min), H_t
    the entropy of p at that place, its bounds over S; a_min for all where entropies are equal.

    Source: On-Policy Self-Adaptation (OPSA), arXiv 2608.31046. The release rounds |S| down and
    takes it of each rank alone; here it is rounded up, of all ranks, with the ties of the last.
    Needs: the `question` alone: no teacher, no reward. It sharpens what is there, so it is the
    control of gains by a teacher. Detached: the choice of S, advantages, ratios.
    Shapes: one value per own token, 0 outside of S.
    Raises: ValueError for a share outside 0..1, or a_min above a_max.
    Degenerates to: unlikelihood of the whole of S for a_min = a_max; positive ones (0.2 in an
    ablation of the release) learn the tokens of S instead; zero where every token was certain.

    Args:
        share: of the tokens that are unlearnt.
        a_min, a_max: advantages where the policy was least and most sure of what comes next.
        correct: weigh tokens that another engine or older weights drew: token, sequence or mask.
        cap: of those weights.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must be above 0 and at most 1")
    if a_min > a_max:
        raise ValueError(f"a_min={a_min} must not be above a_max={a_max}")
    part = Fraction(str(share))

    def credit(batch, models):
        entropy = models.score(plain(batch, grad=False), batch).entropy
        chosen = highest(-batch.take("raw"), batch.own, part)
        return batch.put(chosen=chosen, advantage=_advantage(entropy, chosen, a_min, a_max))

    def loss(scores, batch):
        now, _ = both_laws(scores["policy"], batch)
        return clipped(now, now, batch.take("advantage"), 0.2, 0.2)  # the ratio is 1

    def weigh(batch):
        chosen = batch.take("chosen")
        return chosen / total(chosen.sum()).clamp(min=1)

    return Method(
        Sample(n, length, Law(temperature, top_k, top_p)),
        corrected(loss, correct, cap),
        credit,
        weigh=weigh,
        stale=correct is not None,
        signal=lambda scores, batch, values: batch.take("advantage"),
        signal_name="advantage",
    )


def _advantage(
    entropy: torch.Tensor, chosen: torch.Tensor, a_min: float, a_max: float
) -> torch.Tensor:
    """[B, T]: from a_max at the lowest entropy of the chosen tokens to a_min at the highest."""
    known = everywhere(entropy[chosen])
    low, high = (known.min(), known.max()) if len(known) else (0.0, 0.0)
    rank = (entropy - low) / (high - low) if high - low > EQUAL else torch.ones_like(entropy)
    return torch.where(chosen, a_max + (a_min - a_max) * rank, 0.0)
