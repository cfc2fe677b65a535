from __future__ import annotations

import torch

from autodidact.batch import Batch
from autodidact.credits.group import group_sum
from autodidact.engines.denoise import Denoise, Order
from autodidact.law import Law
from autodidact.losses.likelihood import Likelihood
from autodidact.losses.policy import Surrogate, policy_gradient
from autodidact.losses.weights import normalised
from autodidact.method import Method, factory
from autodidact.models import Models
from autodidact.rollouts.sample import Sample


@factory
def wd1(
    n: int = 6,
    length: int = 256,
    steps: int | None = 128,
    block: int | None = 32,
    order: Order = "confidence",
    prompt: float = 0.15,
    sharpness: float = 1.0,
    epochs: int = 8,
    temperature: float = 0.9,
) -> Method:
    """wd1: answers of a masked model weighed by the softmax of their rewards, without a ratio.

    L = -(1/groups) sum_groups sum_i (w+_i - w-_i) sum_t lp_t, w+ = softmax(s R) and
    w- = softmax(-s R) over the group, s = `sharpness`, lp as in `diffu_grpo`.

    Source: wd1: Weighted Policy Optimization for Reasoning in Diffusion Language Models,
    arXiv 2507.08838. The release takes the softmax over the rows of a device; here it is that of
    the group. lp of older weights is not needed, and the updates on a batch share their canvases.
    Needs: `answer`. Detached: the weights.
    Shapes: one value per own token.
    Raises: ValueError for n < 2, and before the run on a causal model or problems without answers.
    Degenerates to: 2s times the gradient of REINFORCE with a group baseline as s goes to 0;
    nothing is learned from a group whose rewards are equal.

    Args:
        steps, block, order, prompt: as in `diffu_grpo`.
        sharpness: of the weights; with much of it only the best and the worst answer count.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")

    def credit(batch: Batch, models: Models) -> Batch:
        reward = sharpness * batch.take("reward")
        known = (~reward.isnan()).to(reward.dtype)
        value = _shares(reward, batch.group) - _shares(-reward, batch.group)
        value = value * group_sum(known, batch.group)
        return batch.put(advantage=value[:, None] * batch.own)

    return policy_gradient(
        Sample(n, length, Law(temperature), engine=Denoise(steps, block, order)),
        credit,
        Surrogate("none", reading=Likelihood("one_step", prompt=prompt, ratio=False)),
        normalised("sum", length),
        epochs=epochs,
    )


def _shares(values: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """exp(x_i) / sum of exp(x_j) over the group, [B], among values that are not NaN; else 0."""
    known = ~values.isnan()
    mates = (group[:, None] == group) & known
    gaps = torch.where(mates, values - values[:, None], -torch.inf)
    return torch.where(known, 1 / gaps.double().exp().sum(1), 0.0).to(values.dtype)
