"""What stands in for log p of a text that a masked model wrote.

Shapes: B rows, T columns, n draws, R canvases. The exact log p averages over all orders in which
the text may be revealed. Every surrogate is a choice of canvases, of the tokens that each is asked
about, and of their weights; its value is the sum over the tokens of weight x log-probability.

| kind       | what is hidden                                        | asked      | weight         |
|------------|-------------------------------------------------------|------------|----------------|
| one_step   | the whole text; prompt tokens with a chance           | all        | 1              |
| elbo       | k of the L tokens, k uniform from 1 to L              | hidden     | L / k          |
| bernoulli  | each token with chance t, t uniform                   | hidden     | 1 / t          |
| complement | each token with chance t, and then all the others     | hidden     | 1/2t, 1/2(1-t) |
| block      | k tokens of a random block, and all blocks after it   | in block   | block / k      |
| trace      | what was hidden when the token was written            | the token  | 1              |
| left       | the token and all after it                            | the token  | 1              |

On average over its noise every token weighs 1, of "block" 1 over the number of blocks. The average
of elbo is a lower bound of log p (LLaDA, 2502.09992): the mean over orders of the log of their
chance. So are those of bernoulli, whose t is from 0.001 on, up to that, and of complement with
`between=(0, 1)`; nearer to 1/2 the weights vary less, and middle canvases count more. That of
block, times the number of blocks, is such a bound for texts written block by block. trace and left
are exact for their order, trace where one token was written at a step and none taken back.

Noise is data: `credit` draws it once for a batch, from a hash of each row and the number of
updates, so that all roles see the same canvases and nothing changes when rows are shuffled, padded
or split.

Sources: one_step d1, 2504.12216; complement coupled-GRPO, 2506.20639, and ESPO, 2512.03759; block
SPG, 2510.09541; trace TraceRL, 2509.06949; left JustGRPO, 2601.15165.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int

from autodidact.batch import Batch
from autodidact.credits.selection import row_names
from autodidact.law import uniform
from autodidact.names import at_least_one, choose
from autodidact.view import View, noised

if TYPE_CHECKING:
    from autodidact.models import Models
    from autodidact.scores import Scores

LikelihoodKind = Literal["one_step", "elbo", "bernoulli", "complement", "block", "trace", "left"]
Values = Float[torch.Tensor, "B T"]
ORDERED = ("trace", "left")
"""Kinds without noise: their canvases are those of an order."""
LEAST = 1e-3
"""The least chance by which a token is hidden, so that weights stay finite."""


@dataclass(frozen=True)
class Likelihood:
    """A surrogate of log p, as a `Reading`.

    Attributes:
        draws: canvases of each row, or pairs of them, over which values are averaged.
        sets: canvases of their own for so many updates on one batch, one after the other.
        prompt: the chance that a prompt token is hidden too.
        block: places of a block, of the kind "block".
        shrink: of "trace", so many steps that follow each other are taken as one.
        between: the least and greatest t of "complement", with a middle of 1/2.
        ratio: whether log p before the update is read too; without it every ratio is 1.

    Raises:
        ValueError: an unknown kind, or a number that is not allowed.
    """

    kind: LikelihoodKind = "one_step"
    draws: int = 1
    sets: int = 1
    prompt: float = 0.0
    block: int = 32
    shrink: int = 1
    between: tuple[float, float] = (0.2, 0.8)
    ratio: bool = True
    masked: bool = True

    def __post_init__(self):
        choose("likelihood", self.kind, get_args(LikelihoodKind))
        at_least_one(draws=self.draws, sets=self.sets, block=self.block, shrink=self.shrink)
        if not 0 <= self.prompt < 1:
            raise ValueError(f"prompt={self.prompt} is a chance: it must be from 0 to below 1")
        low, high = self.between
        if not 0 <= low < high <= 1 or abs(low + high - 1) > 1e-9:
            raise ValueError(
                f"between={self.between}: two chances from 0 to 1, the first below the second and "
                "1/2 in their middle, so that tokens weigh 1 on average"
            )
        if self.kind in ORDERED and self.draws > 1:
            raise ValueError(f"draws={self.draws}: {self.kind!r} has no noise to draw")

    # ------------------------------------------------------------------ noise

    def credit(self, batch: Batch, models: Models) -> Batch:
        """Streams `hidden`, `asked` and `share` [B, T, draws x sets]: 1 or 0, and weights; and
        `before` [B, T], of several sets [B, T, sets], log p at the weights as they are, which
        ratios are to."""
        if self.kind not in ORDERED:
            batch = batch.put(**self.noise(batch, models))
        if not self.ratio:
            return batch
        found = []
        for number in range(self.sets):
            turn = batch.put(epoch=torch.full_like(batch.group, number))
            views = self.views(turn, models, "policy", "policy", grad=False)
            found.append(self.logp(models.scores(views, turn), turn, "policy").detach())
        return batch.put(before=found[0] if self.sets == 1 else torch.stack(found, -1))

    def _turn(self, batch: Batch) -> int:
        """Which set an update reads, by the stream `epoch` [B]."""
        epoch = batch.streams.get("epoch")
        return 0 if epoch is None or not len(epoch) else int(epoch[0]) % self.sets

    def noise(self, batch: Batch, models: Models) -> dict[str, torch.Tensor]:
        """The canvases of every row, drawn from a hash of it and the number of updates."""
        names, seed = row_names(batch), models.ledger.optimizer_steps
        places = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        parts = []
        for number in range(self.draws * self.sets):
            turn = torch.full_like(names, number)
            each = uniform(seed, names[:, None], turn[:, None], places + 1)
            whole = (uniform(seed, names, turn, 0) + number % self.draws) / self.draws
            parts.append(self._canvas(batch, each, whole))
        hidden, asked, share = (torch.stack(each, -1) for each in zip(*parts, strict=True))
        return {"hidden": hidden.to(torch.int8), "asked": asked.to(torch.int8), "share": share}

    def _canvas(self, batch, each, whole):
        """What is hidden and asked [B, T], and with what weight, by uniform numbers for each
        token and for the row. Of complements it is the first of the two; the other is implied."""
        written = _written(batch)
        if self.kind == "one_step":
            canvas = batch.take("canvas") == 1
            prompt = batch.real & ~canvas & (each < self.prompt)
            return written | prompt, batch.own, batch.own.double()
        count = written.sum(1, keepdim=True)
        if self.kind == "block":
            return _in_block(batch, written, each, whole, self.block)
        if self.kind == "elbo":
            size = (whole[:, None] * count).floor().long() + 1
            hidden = written & (_rank(each, written) < size)
            weight = (count.double() / size).expand(hidden.shape)
        else:
            low, high = self.between if self.kind == "complement" else (LEAST, 1.0)
            chance = (low + (high - low) * whole)[:, None]
            hidden = written & (each < chance)
            weight = torch.where(hidden, 1 / chance, 1 / (1 - chance))
            if self.kind == "complement":
                return hidden, batch.own, weight * batch.own / 2
        return hidden, hidden & batch.own, weight * (hidden & batch.own)

    # ------------------------------------------------------------------ readings

    def views(
        self, batch: Batch, models: Models, name: str, role: str, *, grad: bool | None = None
    ) -> dict[str, View]:
        if self.kind in ORDERED:
            row, hidden, asked = self._visited(batch)
            return {name: noised(batch, models, hidden, row, asked, role, grad=grad)}
        hidden, asked = batch.take("hidden") == 1, batch.take("asked") == 1
        found, first = {}, self._turn(batch) * self.draws
        for number in range(self.draws):
            called = f"{name}:{number}" if number else name
            canvas, tokens = hidden[..., first + number], asked[..., first + number]
            rows: torch.Tensor | None = None
            if self.kind == "complement":
                written = _written(batch)
                rows = torch.arange(len(batch), device=canvas.device).repeat(2)
                tokens = torch.cat([canvas & batch.own, written & ~canvas & batch.own])
                canvas = torch.cat([canvas, written & ~canvas])
            found[called] = noised(batch, models, canvas, rows, tokens, role, grad=grad)
        return found

    def _visited(
        self, batch: Batch
    ) -> tuple[Int[torch.Tensor, "R"], Bool[torch.Tensor, "R T"], Bool[torch.Tensor, "R T"]]:
        """The canvases of an order: of which row, what is hidden, what is asked."""
        order, written = batch.take("order").long(), _written(batch)
        if self.kind == "left":
            order = written.long().cumsum(1) * written
        else:
            order = torch.where(written, (order - 1) // self.shrink + 1, 0)
        steps = torch.where(batch.own, order, 0)
        turn = torch.arange(1, int(steps.max()) + 1, device=order.device)[:, None, None]
        asked = steps == turn
        some = asked.any(2).T.nonzero()
        row, number = some[:, 0], some[:, 1]
        hidden = written[row] & (order[row] > number[:, None])
        return row, hidden, asked[number, row]

    def logp(self, scores: Mapping[str, Scores], batch: Batch, name: str) -> Values:
        if self.kind in ORDERED:
            return scores[name].logp
        share = batch.take("share").to(scores[name].hidden.dtype)
        first = self._turn(batch) * self.draws
        parts = [
            share[..., first + number] * scores[f"{name}:{number}" if number else name].logp
            for number in range(self.draws)
        ]
        return torch.stack(parts).mean(0)

    def laws(self, scores: Mapping[str, Scores], batch: Batch) -> tuple[Values, Values]:
        now = self.logp(scores, batch, "policy")
        if not self.ratio:
            return now, now.detach()
        before = batch.take("before")
        return now, before if before.dim() == 2 else before[..., self._turn(batch)]


def _written(batch: Batch) -> Bool[torch.Tensor, "B T"]:
    """The tokens that the model wrote, those behind the end of the text included."""
    return batch.real & (batch.take("order") > 0)


def _rank(
    numbers: Float[torch.Tensor, "B T"], among: Bool[torch.Tensor, "B T"]
) -> Int[torch.Tensor, "B T"]:
    """The place of each number among those that count, from the least on."""
    order = torch.where(among, numbers, 2.0).argsort(1)
    places = torch.arange(numbers.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _in_block(batch, written, each, whole, size):
    """Some tokens of a random block and all of the blocks after it are hidden."""
    canvas = batch.real & (batch.take("canvas") == 1)
    place = canvas.long().cumsum(1) - 1
    count = -(-canvas.sum(1, keepdim=True) // size)
    block = (whole[:, None] * count).floor().long()
    inside, later = written & (place // size == block), written & (place // size > block)
    # The fraction that is left of the row's number is a fresh one.
    many = inside.sum(1, keepdim=True)
    rest = whole[:, None] * count - block
    some = (rest * many).floor().long() + 1
    hidden = inside & (_rank(each, inside) < some)
    asked = hidden & batch.own
    return hidden | later, asked, (many.double() / some.clamp(min=1)) * asked
