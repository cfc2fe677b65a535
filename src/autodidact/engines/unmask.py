"""Engines that let a small network say which places of a canvas are opened next.

Shapes: B rows, L places of the canvas, A rows that are still written, N places that are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from autodidact.credits.unmasking import gumbel
from autodidact.engine import Drawn, Request
from autodidact.engines.canvas import Canvas
from autodidact.engines.denoise import Denoise
from autodidact.law import Law, sureness, uniform
from autodidact.model import LM
from autodidact.store import Completion


@dataclass(frozen=True)
class Ranked(Completion):
    """A completion of a masked model, with the turn of each token within its step, from 1 on."""

    rank: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Unmask(Denoise):
    """`Denoise` whose places are opened in an order drawn by Plackett and Luce from scores.

    The scores are those of `network`, a `credits.unmasking.Opener`, of the states of all places.
    Completions are `Ranked`. It knows no guidance and no remasking.

    Attributes:
        chance: draw the order; otherwise the highest scores are taken, as for evaluation.
    """

    chance: bool = field(default=True, kw_only=True)
    network: torch.nn.Module | None = field(default=None, kw_only=True, repr=False)

    @property
    def name(self) -> str:
        return f"unmask({self.steps}, {self.block})"

    def draw(self, lm: LM, requests: Sequence[Request], law: Law, seed: int) -> Drawn:
        drawn = super().draw(lm, requests, law, seed)
        return drawn._replace(completions=[_ranked(each) for each in drawn.completions])

    def write(self, lm: LM, canvas: Canvas, law: Law, seed: int) -> tuple[int, int]:
        """As `Denoise`; the steps then tell turns apart, see `_ranked`."""
        fed = super().write(lm, canvas, law, seed)
        size = canvas.step.shape[1]
        surer = canvas.sure[:, None] > canvas.sure[:, :, None]
        same = canvas.step[:, None] == canvas.step[:, :, None]
        fine = (canvas.step - 1) * size + (surer & same).sum(2) + 1
        canvas.step = torch.where(canvas.step > 0, fine, 0)
        return fed

    def _reader(self, lm, canvas, active):
        """Also leaves the scores of the places in `canvas.sure`."""
        rows, head = active.nonzero().squeeze(1), lm.head()
        back = active.long().cumsum(0) - 1
        full = lm.hidden(canvas.ids[rows], canvas.real[rows], use_cache=False).last_hidden_state
        places = torch.arange(canvas.hidden.shape[1], device=rows.device)
        column = canvas.start[rows][:, None] + places - lm.shift
        states = full.gather(1, column[..., None].expand(-1, -1, full.shape[2]))
        hidden = canvas.hidden[rows]
        # Blocks are written one after the other: the first hidden place tells which one it is.
        block = places // (self.block or len(places))
        able = hidden & (block == block[hidden.long().argmax(1)][:, None])
        assert self.network is not None
        scores = self.network(states, torch.ones_like(hidden), hidden, able).to(canvas.sure)
        canvas.sure[rows] = torch.where(able, scores, canvas.sure[rows])
        return lambda row, place: head.logits(states[back[row], place])

    def _sure(self, logits, words, place, seed, canvas, row, position):
        scores = canvas.sure[row, place]
        if not self.chance:
            return scores
        numbers = uniform(~seed, canvas.keys[row], canvas.samples[row], position)
        return scores + gumbel(numbers).to(scores)


@dataclass(frozen=True)
class Adaptive(Denoise):
    """`Denoise` that opens each place of the block with a chance of its own, and at least one.

    The chances are those of `network`, a `credits.unmasking.Threshold`, of how sure the model is of
    each place: the probability of its likeliest word.
    """

    threshold: float | None = 1.0
    network: torch.nn.Module | None = field(default=None, kw_only=True, repr=False)

    @property
    def name(self) -> str:
        return f"adaptive({self.block})"

    def _step(self, lm, canvas, active, inside, law, seed, clock) -> None:
        hidden = canvas.hidden & inside & active[:, None]
        words = self._drafted(lm, canvas, active, hidden, law, seed)
        row, place = hidden.nonzero(as_tuple=True)
        assert self.network is not None
        sure = torch.where(hidden, canvas.sure, 0.0)
        odds = self.network(sure, torch.ones_like(hidden), hidden)[row, place]
        position = canvas.taken[row] * hidden.shape[1] + place
        numbers = uniform(~seed, canvas.keys[row], canvas.samples[row], position)
        chance = odds.double().sigmoid()
        # 1 and more for places that are opened; otherwise less, in the order of the chances.
        canvas.sure[row, place] = (numbers < chance) + chance / 2
        canvas.put(self._kept(canvas.sure, hidden, 1), words)

    def _sure(self, logits, words, place, seed, canvas, row, position):
        return sureness(logits, logits.argmax(-1), "confidence")


def _ranked(completion: Completion) -> Ranked:
    """With steps and turns apart: `order` holds (step - 1) size + turn."""
    assert completion.order is not None
    size = len(completion.ids)
    return Ranked(
        completion.ids, completion.logp, completion.raw, completion.finished,
        order=[-(-each // size) for each in completion.order],
        rank=[(each - 1) % size + 1 if each else 0 for each in completion.order],
    )  # fmt: skip
