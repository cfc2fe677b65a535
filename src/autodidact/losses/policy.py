"""Policy-gradient losses and estimators of the divergence to a reference, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from autodidact.batch import Batch

if TYPE_CHECKING:
    from autodidact.scores import Scores


def clipped(
    logp: Float[torch.Tensor, "B T"],
    old: Float[torch.Tensor, "B T"],
    advantage: Float[torch.Tensor, "B T"],
    low: float,
    high: float,
) -> Float[torch.Tensor, "B T"]:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A), with rho = exp(logp - old) (1707.06347).

    `old` and `advantage` are detached. At rho = 1 its gradient is that of -A logp.
    """
    ratio = (logp - old.detach()).exp()
    bounded = ratio.clamp(1 - low, 1 + high)
    return -torch.minimum(ratio * advantage.detach(), bounded * advantage.detach())


def k3(
    logp: Float[torch.Tensor, "B T"], reference: Float[torch.Tensor, "B T"]
) -> Float[torch.Tensor, "B T"]:
    """exp(r - l) - (r - l) - 1 at the sampled token (l = logp, r = reference, detached).

    On-policy its mean is KL(policy || reference), while the mean of its gradient is that of
    KL(reference || policy): see `tests/test_estimators.py`.
    """
    gap = reference.detach() - logp
    return gap.exp() - gap - 1


def nll(scores: Mapping[str, Scores], batch: Batch) -> Float[torch.Tensor, "B T"]:
    """-log p of every own token, as a method's loss."""
    return scores["policy"].nll
