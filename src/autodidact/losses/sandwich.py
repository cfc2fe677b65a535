"""A likelihood that depends on what an answer is worth: SPG's pair of surrogates.

Shapes: B rows, T columns, n draws. Of a row of positive advantage it is the lower bound of log p,
of one of negative advantage a mix with another surrogate, which weighs sure canvases more and
whose gradient is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from autodidact.batch import Batch
from autodidact.losses.likelihood import Likelihood, LikelihoodKind, Values

if TYPE_CHECKING:
    from autodidact.scores import Scores


@dataclass(frozen=True)
class Sandwich(Likelihood):
    """log p of a token from the draws d, of which m canvases ask it with weight w_d.

    lower = mean_d w_d log p_d;  upper = (1/beta) log mean_d w_d p_d^beta, d among all draws.
    Rows whose stream `advantage` is negative have omega * upper + (1 - omega) * lower, with upper
    scaled up by the share of the row's tokens that were asked at all. Of a negative row's log p_d
    the gradient is (1 - omega) w_d + omega w_d p_d^beta / mean_d(w_d p_d^beta), over the draws.

    "upper" is a name: an upper bound of log p is what it becomes with a constant that depends on
    the number of tokens and beta and not on the weights, and that is left out, as in the release.

    Canvases are those of blocks: a block of the answer is drawn, and k of its tokens; they are
    hidden and asked, with weight (blocks x tokens of the block) / k, so that each token has weight
    1 on average. All that follows is hidden, and of all that precedes a share `prompt`.

    Source: SPG: Sandwiched Policy Gradient for Masked Diffusion Language Models, arXiv 2510.09541.
    The release also asks the tokens of later blocks, and the hidden ones of earlier blocks.

    Attributes:
        beta: the power, above 0; the nearer to 0, the nearer upper comes to lower.
        omega: the share of upper, from 0 to 1.
    """

    kind: LikelihoodKind = "block"
    draws: int = 2
    prompt: float = 0.15
    ratio: bool = False
    beta: float = 1.5
    omega: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not self.beta > 0:
            raise ValueError(f"beta={self.beta} must be above 0")
        if not 0 <= self.omega <= 1:
            raise ValueError(f"omega={self.omega} is a share: it must be from 0 to 1")

    def _canvas(self, batch, each, whole):
        """Hidden, asked and weight [B, T] of one draw; nothing is drawn beyond the text's end."""
        canvas = batch.real & (batch.take("canvas") == 1)
        written = batch.real & (batch.take("order") > 0)
        place = canvas.long().cumsum(1) - 1
        count = ((place * batch.own).amax(1, keepdim=True) // self.block) + 1
        number = (whole[:, None] * count).floor()
        inside = batch.own & (place // self.block == number)
        earlier = batch.real & ~canvas | batch.own & (place // self.block < number)
        many = inside.sum(1, keepdim=True)
        # The fraction that is left of the row's number is a fresh one.
        some = ((whole[:, None] * count - number) * many).floor() + 1
        rank = torch.where(inside, each, 2.0).argsort(1).argsort(1)
        asked = inside & (rank < some)
        hidden = written & ~inside & ~earlier | asked | earlier & (each < self.prompt)
        return hidden, asked, (count * many / some) * asked

    def logp(self, scores: Mapping[str, Scores], batch: Batch, name: str) -> Values:
        read = [scores[f"{name}:{i}" if i else name].logp for i in range(self.draws)]
        logp, share = torch.stack(read, -1), batch.take("share")
        share = share.to(logp.dtype)
        lower = (share * logp).mean(-1)
        mixed = self.omega * self._upper(logp, share, batch.own) + (1 - self.omega) * lower
        return torch.where(batch.take("advantage") < 0, mixed, lower)

    def _upper(self, logp, share, own) -> Values:
        asked = share > 0
        power = torch.where(asked, self.beta * logp, -torch.inf)
        some = asked.any(-1)
        most = torch.where(some, power.amax(-1), 0.0).detach()
        # Tokens that no draw asked stand aside: they say nothing, and their logarithm has no slope.
        mean = (share * (power - most[..., None]).exp()).mean(-1)
        value = torch.where(some, (mean.where(some, 1.0).log() + most) / self.beta, 0.0)
        return value * (own.sum(1) / some.sum(1).clamp(min=1)).to(value.dtype)[:, None]
