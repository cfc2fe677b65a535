"""Importance weights: tokens that one law drew, for a loss that is about another.

Shapes: B rows, T columns. mu is the law that a token was drawn from, pi the same law (temperature
and truncation) at the weights in training: another where engines differ in their numbers, or where
the weights have moved since. With d_t = log pi(y_t) - log mu(y_t), always detached, the weights are

token      min(exp(d_t), cap)             (TIS, truncated importance sampling)
sequence   min(exp(sum_t d_t), cap)       at every token of the row
mask       exp(d_t) where it lies within 1/cap and cap, else 0

Where nothing is cut E_mu[w f] = E_pi[f]: of one token for "token" and "mask", whose prefixes stay
those of mu, and of whole rows for "sequence". A cut biases towards mu and bounds the variance.

Sources: truncated importance sampling as in verl ("rollout correction") and TRL; "mask" is IcePop,
arXiv 2510.18855.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Bool, Float

from autodidact.batch import Batch
from autodidact.names import choose

if TYPE_CHECKING:
    from autodidact.scores import Scores

Correct = Literal["token", "sequence", "mask"]
Loss = Callable[[Mapping[str, "Scores"], Batch], Float[torch.Tensor, "B T"]]


@dataclass(frozen=True)
class Correction:
    """Which weights, and where they are cut.

    Raises:
        ValueError: an unknown kind, or a cap below 1, the weight of a token of pi itself.
    """

    kind: Correct
    cap: float = 2.0

    def __post_init__(self):
        choose("correct", self.kind, get_args(Correct))
        if not self.cap >= 1:
            raise ValueError(
                f"cap={self.cap} is not allowed: it must be at least 1, the weight of a token of "
                "the trained law itself (inf for no bound)"
            )

    @torch.no_grad()
    def weights(
        self,
        now: Float[torch.Tensor, "B T"],
        then: Float[torch.Tensor, "B T"],
        own: Bool[torch.Tensor, "B T"],
    ) -> Float[torch.Tensor, "B T"]:
        """The weight of every own token, given log pi and log mu; 0 elsewhere."""
        gap = torch.where(own, now - then, 0.0)
        if self.kind == "sequence":
            gap = gap.sum(1, keepdim=True).expand_as(gap)
        if self.kind == "mask":
            return torch.where(own & (gap.abs() <= math.log(self.cap)), gap.exp(), 0.0)
        return torch.where(own, gap.exp().clamp(max=self.cap), 0.0)


def both_laws(
    policy: Scores, batch: Batch
) -> tuple[Float[torch.Tensor, "B T"], Float[torch.Tensor, "B T"]]:
    """log pi of every own token, differentiable, and log mu: equal where the weights are.

    Where words were cut off (stream `support`) both are renormalised over those that were left:
    stream `logp`. Otherwise both are of the whole vocabulary: stream `raw`. To mix the two would
    make their ratio the mass that was kept.
    """
    if "support" in batch.streams:
        return policy.within(batch.take("support")), batch.take("logp")
    return policy.logp, batch.take("raw")


def corrected(loss: Loss, kind: Correct | None, cap: float) -> Loss:
    """The loss with each value multiplied by its weight; itself for `None`.

    For losses with a value per token that take the tokens as the policy's own. A loss with a ratio
    of its own to the sampler is corrected already; see `methods.grpo` for one to the trainer.

    Raises:
        ValueError: as `Correction`.
    """
    if kind is None:
        return loss
    correction = Correction(kind, cap)

    def weighed(scores: Mapping[str, Scores], batch: Batch) -> Float[torch.Tensor, "B T"]:
        # With these weights the loss is another sum than the one that `Scores.weight` speaks of.
        policy = replace(scores["policy"], weight=None)
        values = loss({**scores, "policy": policy}, batch)
        with torch.no_grad():
            now, then = both_laws(policy, batch)
        return values * correction.weights(now, then, batch.own)

    return weighed
