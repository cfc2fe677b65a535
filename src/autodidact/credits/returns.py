"""Returns and advantages along a row, from rewards per token and values of states.

Shapes: B rows, T columns. Only own tokens are actions: whatever stands between them, such as the
answer of a tool, is passed over, neither rewarded nor a state of its own.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float

from autodidact.batch import Batch

Rate = float | Float[torch.Tensor, "B T"]


def at_end(
    reward: Float[torch.Tensor, "B"], own: Bool[torch.Tensor, "B T"]
) -> Float[torch.Tensor, "B T"]:
    """The reward of a row at its last own token, 0 at all others and where it is NaN."""
    last = own & (own.cumsum(1) == own.sum(1, keepdim=True))
    return torch.where(last, reward.nan_to_num()[:, None], 0.0)


def gae(
    rewards: Float[torch.Tensor, "B T"],
    values: Float[torch.Tensor, "B T"],
    own: Bool[torch.Tensor, "B T"],
    gamma: Rate = 1.0,
    lam: Rate = 1.0,
) -> tuple[Float[torch.Tensor, "B T"], Float[torch.Tensor, "B T"]]:
    """Generalised advantage estimation (1506.02438) over the own tokens; 0 elsewhere.

    delta_t = r_t + gamma_t V_{t+1} - V_t;  A_t = delta_t + gamma_t lam_t A_{t+1};
    return_t = A_t + V_t, where t + 1 is the next own token of the row, and V and A are 0 after
    the last. OpenRLHF multiplies by the mask instead, which lets the advantages before a masked
    span forget what comes after it.

    Args:
        rewards: for the token. values: V_t of the state from which the token is drawn.
        gamma, lam: numbers, or one for the step from each token to the next.

    Returns:
        Advantages and returns.
    """
    advantage = torch.zeros_like(values)
    rates = (torch.as_tensor(rate, dtype=values.dtype) for rate in (gamma, lam))
    gamma, lam = (rate.to(values.device).expand_as(values) for rate in rates)
    later, beyond = values.new_zeros(len(values)), values.new_zeros(len(values))
    for t in reversed(range(values.shape[1])):
        here = own[:, t]
        delta = rewards[:, t] + gamma[:, t] * beyond - values[:, t]
        found = delta + gamma[:, t] * lam[:, t] * later
        later, beyond = torch.where(here, found, later), torch.where(here, values[:, t], beyond)
        advantage[:, t] = torch.where(here, found, 0.0)
    return advantage, (advantage + values) * own


def to_go(
    rewards: Float[torch.Tensor, "B T"], own: Bool[torch.Tensor, "B T"], gamma: Rate = 1.0
) -> Float[torch.Tensor, "B T"]:
    """sum_{s >= t} gamma^(s-t) r_s, counted in own tokens; 0 elsewhere."""
    return gae(rewards, torch.zeros_like(rewards), own, gamma)[0]


def k1_penalty(
    batch: Batch, logp: Float[torch.Tensor, "B T"], reference: Float[torch.Tensor, "B T"]
) -> Float[torch.Tensor, "B T"]:
    """-(log p - log r) of each own token: the divergence to a reference as a reward.

    Detached, in a reward, the log-ratio at the sampled token is right; as a loss it is not.
    """
    return torch.where(batch.own, (reference - logp).detach(), 0.0)
