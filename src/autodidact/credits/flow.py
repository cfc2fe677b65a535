"""A flow that learns how right answers move through hidden states, and how far a token is off it.

Shapes: B rows, T columns, L depths, D hidden size, N tokens.

Source: RLFR, arXiv 2510.10201.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float

from autodidact.auxiliary import states
from autodidact.batch import Batch
from autodidact.credits.returns import to_go
from autodidact.credits.scaling import minmax
from autodidact.credits.value import Beside
from autodidact.law import prompt_key, uniform
from autodidact.parallel import total

if TYPE_CHECKING:
    from autodidact.models import Models

Values = Float[torch.Tensor, "B T"]

WAVES = 4
"""Cosines that a time is told by, beside itself."""


class Block(torch.nn.Module):
    """x + gate MLP(norm(x) (1 + scale) + shift), the three of them linear in what is told."""

    def __init__(self, size: int):
        super().__init__()
        self.norm = torch.nn.LayerNorm(size, elementwise_affine=False)
        self.tell = torch.nn.Linear(size, 3 * size)
        self.inner = torch.nn.Sequential(
            torch.nn.Linear(size, size), torch.nn.SiLU(), torch.nn.Linear(size, size)
        )

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        gate, scale, shift = self.tell(told).chunk(3, -1)
        return x + gate * self.inner(self.norm(x) * (1 + scale) + shift)


class FlowNet(torch.nn.Module):
    """v(x, tau, c, l): [..., L, D], [...], [..., L, D] -> [..., L, D], for all depths l at once."""

    def __init__(self, size: int, depths: int, blocks: int):
        super().__init__()
        self.depths = depths
        self.time = torch.nn.Linear(1 + WAVES, size)
        self.context = torch.nn.Linear(size, size)
        self.depth = torch.nn.Parameter(torch.randn(depths, size) / math.sqrt(size))
        self.blocks = torch.nn.ModuleList(Block(size) for _ in range(blocks))
        self.last = torch.nn.Linear(size, size)

    def forward(self, x: torch.Tensor, tau: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        turns = math.pi * torch.arange(1, WAVES + 1, device=tau.device)
        time = self.time(torch.cat([tau[..., None], torch.cos(tau[..., None] * turns)], -1))
        told = torch.nn.functional.silu(time[..., None, :] + self.context(context) + self.depth)
        for block in self.blocks:
            x = block(x, told)
        return self.last(x)


@dataclass(frozen=True)
class Flow(Beside):
    """A network of velocities from noise to the state of a token, given the state before it.

    x = tau h_t + (1 - tau) eps, u = h_t - eps, eps standard normal;
    L = mean over depths and D of (v(x, tau, h_{t-1}, l) - u)^2, mean over tokens of right rows.

    tau in training is the sigmoid of a standard normal. Noise and times are data: they follow
    from the tokens of the row and the number of updates that the network has made.

    Attributes:
        depths: shares of the layers whose states are read.
        blocks: of the network.
        at: tau of the score.
    """

    depths: tuple[float, ...] = (0.25, 0.5, 0.75)
    blocks: int = 2
    at: float = 0.8

    @property
    def name(self) -> str:
        return "flow"

    def network(self, size: int) -> torch.nn.Module:
        return FlowNet(size, len(self.depths), self.blocks)

    @torch.no_grad()
    def read(self, batch: Batch, models: Models) -> Batch:
        """Streams `flow_before`, `flow_states`, `flow_noise` [B, T, L D], `flow_time` [B, T], and
        `flow`, the error of each own token at time `at`."""
        trained = models.trained(self.auxiliary)
        before = states(batch, models, self.role, "before", self.depths)
        after = states(batch, models, self.role, "after", self.depths)
        drawn = normal(batch, after.shape[2] + 1, trained.updates).to(after.dtype)
        batch = batch.put(
            flow_before=before,
            flow_states=after,
            flow_noise=drawn[:, :, 1:],
            flow_time=drawn[:, :, 0].sigmoid(),
        )
        fixed = torch.full_like(batch.take("flow_time"), self.at)
        return batch.put(flow=self.errors(trained.network, batch, fixed))

    def errors(self, network: torch.nn.Module, batch: Batch, tau: Values) -> Values:
        """mean (v - u)^2 of each own token at these times; 0 elsewhere."""
        own, kind = batch.own, next(network.parameters()).dtype

        def parted(name: str) -> torch.Tensor:
            return batch.take(name)[own].to(kind).unflatten(-1, (len(self.depths), -1))

        h, noise, context = (parted(f"flow_{name}") for name in ("states", "noise", "before"))
        time = tau[own].to(kind)
        x = time[:, None, None] * h + (1 - time)[:, None, None] * noise
        found = ((network(x, time, context) - (h - noise)) ** 2).mean((1, 2))
        return found.new_zeros(own.shape).masked_scatter(own, found)

    def loss(self, network: torch.nn.Module, batch: Batch) -> Values:
        return self.errors(network, batch, batch.take("flow_time"))

    def weigh(self, batch: Batch) -> Values:
        right = batch.own & (batch.take("correct") == 1)[:, None]
        return right / total(right.sum()).clamp(min=1)

    def score(self, batch: Batch) -> Values:
        """s_t = at / (1 - at) times the error."""
        return self.at / (1 - self.at) * batch.take("flow")


def off_flow(
    score: Values, own: Bool[torch.Tensor, "B T"], threshold: float = 0.6, most: int = 15
) -> Values:
    """The scores of the tokens of a row that are furthest off, from min 0 to max 1 of the row.

    Those up to the threshold are 0, and so are all but the `most` highest of a row (ties of the
    last stay), and a row whose scores are all equal, of which nothing can be said.
    """
    scaled = minmax(score, own)
    kept = torch.where(scaled > threshold, scaled, 0.0)
    if most >= kept.shape[1]:
        return kept
    last = kept.topk(most, 1).values[:, -1:]
    return torch.where(kept >= last, kept, 0.0)


def flow_penalty(scores: Values, own: Bool[torch.Tensor, "B T"], weight: float) -> Values:
    """sum_{s >= t} r_s with r = -weight s: what is still to be paid from a token on."""
    return to_go(-weight * scores, own)


def normal(batch: Batch, size: int, turn: int) -> Float[torch.Tensor, "B T S"]:
    """Standard normal numbers [B, T, size] for the own tokens, 0 elsewhere (Box and Muller).

    They depend on the tokens of the row and the turn, not on what stands beside the row.
    """
    keys = [prompt_key(ids[real].tolist()) for ids, real in zip(batch.ids, batch.real, strict=True)]
    rows, columns = batch.own.nonzero(as_tuple=True)
    name = torch.tensor(keys, device=rows.device)[rows, None]
    place, number = columns[:, None], torch.arange(size, device=rows.device)[None]
    radius = (-2 * torch.log1p(-uniform(turn, name, 2 * number, place))).sqrt()
    found = radius * torch.cos(2 * math.pi * uniform(turn, name, 2 * number + 1, place))
    whole = found.new_zeros(*batch.own.shape, size)
    whole[batch.own] = found
    return whole
