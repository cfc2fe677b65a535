"""Any-subset speculative decoding: a model drafts several places at once and judges itself.

Shapes: B rows, A of them that are still written, T places, G proposals of each, V words. The model
and the order of places, their `rank`, are those of `anysubset`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float, Int

from autodidact.engine import Drawn, Request
from autodidact.engines.accept import Lenience, Verdict, judge
from autodidact.engines.canvas import Canvas
from autodidact.engines.rounds import INSTEAD, TEST, Tally
from autodidact.law import Law, draw, prompt_key, uniform
from autodidact.names import at_least_one
from autodidact.store import Completion

ROWS = 8192
"""Rows that are written together; a bound on memory, without effect on what is drawn."""


class Ordered(Protocol):
    """A model of any order: logits of each place given the places of lower rank."""

    mask: int

    def __call__(
        self, ids: Int[torch.Tensor, "A T"], rank: Int[torch.Tensor, "A T"]
    ) -> Float[torch.Tensor, "A T V"]: ...


@dataclass
class Assd:
    """Draws canvases from a model of any order, exactly as one place after the other would.

    A round proposes the next `guess` places in parallel, each given what is written: laws q. One
    reading of the proposals in their order gives p, and `accept.judge` keeps those until the first
    that fails. The first proposal always stands, as its p is its q; so a round of two readings
    writes two places or more, and readings are never more than places. The last place of a row
    needs no judging, and neither does anything for `guess=1`.

    Each place depends on the uniform numbers of its own rank only; `logp` is its p.

    Source: Reviving Any-Subset Autoregressive Models, arXiv 2504.20456. There a model that reads
    both ways without an order would have p = q: nothing would be corrected.

    Attributes:
        guess: places that are proposed at a time.
        tally: of the last draw; `judged` leaves out places that needed no judging.

    Raises:
        ValueError: no proposals, and when drawing a request with a prompt: the canvas is all.
    """

    guess: int = 5
    tally: Tally = field(init=False, default_factory=Tally, compare=False)

    def __post_init__(self):
        at_least_one(guess=self.guess)

    @torch.no_grad()
    def draw(self, model: Ordered, requests: Sequence[Request], law: Law, seed: int) -> Drawn:
        """A completion of each request's canvas; `calls` are the rows that were read."""
        self.tally = Tally()
        found: dict[int, Completion] = {}
        fell = 0
        sizes: dict[int, list[int]] = {}
        for number, request in enumerate(requests):
            if request.read:
                raise ValueError(
                    f"a prompt of {len(request.read)} tokens cannot be read: here what is given "
                    "stands in the canvas"
                )
            sizes.setdefault(len(request.canvas) or request.length, []).append(number)
        for numbers in sizes.values():
            for i in range(0, len(numbers), ROWS):
                some = numbers[i : i + ROWS]
                canvas = _canvas([requests[number] for number in some], model.mask)
                fell += self.write(model, canvas, law, seed)
                found |= {number: _completion(canvas, row) for row, number in enumerate(some)}
        completions = [found[number] for number in range(len(requests))]
        return Drawn(completions, 0, verified=fell, calls=self.tally.calls)

    def write(self, model: Ordered, canvas: Canvas, law: Law, seed: int) -> int:
        """Fill the canvas. Returns how many proposals fell."""
        rank = torch.where(canvas.open, canvas.open.cumsum(1), 0)
        fell = step = 0
        while canvas.hidden.any():
            step += 1
            left = canvas.hidden.sum(1)
            for wanted, guess in ((left == 1, 1), (left > 1, self.guess)):
                rows = wanted.nonzero().squeeze(1)
                if len(rows):
                    fell += self._round(model, canvas, rows, rank[rows], guess, law, seed, step)
        return fell

    def _round(self, model, canvas, rows, rank, guess, law, seed, step) -> int:
        left = canvas.hidden[rows].sum(1)
        done = canvas.open[rows].sum(1) - left
        turn = done[:, None] + torch.arange(1, guess + 1)
        real = turn <= (done + left)[:, None]
        place = (rank[:, None] == turn[..., None]).long().argmax(-1)
        numbers = [
            uniform(seed + more, canvas.keys[rows, None], canvas.samples[rows, None], turn)
            for more in (0, TEST, INSTEAD)
        ]
        ids = canvas.ids[rows]
        # Hidden places share one rank in a draft: none of them reads another.
        raw, q = _laws(model, ids, rank.minimum(done[:, None] + 1), place, law)
        proposed = draw(q.flatten(0, 1), numbers[0].flatten()).view_as(place)
        logp, found = q, Verdict(proposed, torch.ones_like(left), torch.ones_like(left))
        self.tally.calls += len(rows)
        if guess > 1:
            at = real.nonzero(as_tuple=True)
            ids[at[0], place[at]] = proposed[at]
            first, drafted = raw[:, :1], q
            raw, p = _laws(model, ids, rank, place, law)
            # One law, which two readings may round in two ways.
            raw, logp = torch.cat([first, raw[:, 1:]], 1), torch.cat([q[:, :1], p[:, 1:]], 1)
            found = judge(logp, drafted, proposed, numbers[1], numbers[2], Lenience())
            self.tally.calls += len(rows)
            self.tally.judged += int(found.gained.minimum(left).sum())
            self.tally.accepted += int(found.accepted.minimum(left).sum())
        gained = torch.arange(guess) < found.gained.minimum(left)[:, None]
        _write(canvas, rows, place, gained, found.tokens, logp, raw, step)
        return int(real.sum() - found.accepted.minimum(left).sum())


def _laws(
    model: Ordered,
    ids: Int[torch.Tensor, "A T"],
    rank: Int[torch.Tensor, "A T"],
    place: Int[torch.Tensor, "A G"],
    law: Law,
) -> tuple[Float[torch.Tensor, "A G V"], Float[torch.Tensor, "A G V"]]:
    """The log-probabilities of some places without truncation, and those of the law."""
    logits = model(ids, rank)
    chosen = logits[torch.arange(len(ids))[:, None], place]
    raw, cut = law.log_probs(chosen.flatten(0, 1))
    return raw.view_as(chosen), cut.view_as(chosen)


def _write(canvas, rows, place, gained, words, logp, raw, step) -> None:
    """Put the words that were gained on the canvas, with what is known of them."""
    at = gained.nonzero(as_tuple=True)
    row, column, word = rows[at[0]], place[at], words[at]
    canvas.ids[row, column], canvas.step[row, column] = word, step
    canvas.hidden[row, column] = False
    for name, values in (("logp", logp), ("raw", raw)):
        stream = getattr(canvas, name)
        stream[row, column] = values[at].gather(1, word[:, None]).squeeze(1).to(stream.dtype)


def _canvas(requests: Sequence[Request], mask: int) -> Canvas:
    """Of requests with canvases of one size."""
    places = [request.canvas or (None,) * request.length for request in requests]
    named = [prompt_key([-1 if word is None else word for word in row]) for row in places]
    ids = torch.tensor([[mask if word is None else word for word in row] for row in places])
    return Canvas(
        ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(len(ids), dtype=torch.long),
        torch.tensor([[word is None for word in row] for row in places]),
        torch.tensor(named), torch.tensor([request.sample for request in requests]),
    )  # fmt: skip


def _completion(canvas: Canvas, row: int) -> Completion:
    streams = (canvas.ids, canvas.logp, canvas.raw, canvas.step)
    ids, logp, raw, order = (stream[row].tolist() for stream in streams)
    return Completion(ids, logp, raw, True, order=order)
