"""Denoising with caches: at most steps only some columns of a canvas are read again.

Shapes: B rows of a canvas, L places, N places that are asked, V words. In a masked model every
token reads every other, so that keys and values of all columns change whenever a word is written.
What is not fed is read as it was: an approximation, which `error` measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, get_args

import torch
from jaxtyping import Bool, Float

from autodidact.engine import Request
from autodidact.engines.canvas import Canvas
from autodidact.engines.columns import Kept, Memory
from autodidact.engines.denoise import Denoise, _highest
from autodidact.law import Law
from autodidact.model import LM
from autodidact.names import at_least_one, choose


@dataclass(frozen=True)
class Cached(Denoise):
    """`Denoise` that keeps keys and values of what it does not read again.

    | cache  | read at a step                          | all is read                       |
    |--------|-----------------------------------------|-----------------------------------|
    | none   | all                                     | at each step                      |
    | prefix | the block and what follows              | at the first step of each block   |
    | dual   | the block                               | at the first step of each block   |
    | free   | `window` tokens, the block, what follows | while the first block is written |

    With "free" the keys and values of a block are those of its last step, where some of its words
    were still hidden. A row is read alike whatever other rows do.

    Degenerates to `Denoise` bit for bit with "none", with refresh=1, and with "free" where the
    window reaches back to the first token. In a model of one layer keys and values depend on their
    own token alone: there "prefix" and "dual" are exact too.

    Sources: Fast-dLLM, arXiv 2505.22618 (prefix, dual, factor); FlashDLM, arXiv 2505.21467 (free).

    Attributes:
        cache: which of the above.
        refresh: read all of a row again after so many readings, that one included.
        window: of "free", so many tokens before the block are read too.
        factor: f, keeps the n surest words with the largest n for which (n + 1) (1 - p_n) < f, p_n
            the probability of the n-th, and the surest in any case. Below 1 the likeliest words
            that are kept are then the likeliest jointly.

    Raises:
        ValueError: as `Denoise`; an unknown cache, a number that is not allowed, a factor with a
            threshold or with another order, or guidance, which needs a second reading.
    """

    cache: Kept = "dual"
    refresh: int | None = None
    window: int = 0
    factor: float | None = None

    def __post_init__(self):
        super().__post_init__()
        choose("cache", self.cache, get_args(Kept))
        if self.refresh is not None:
            at_least_one(refresh=self.refresh)
        if self.window < 0:
            raise ValueError(f"window={self.window} must be at least 0")
        if self.guidance:
            raise ValueError(f"guidance={self.guidance} is not kept in a cache: use Denoise")
        if self.factor is None:
            return
        if self.factor <= 0:
            raise ValueError(f"factor={self.factor} must be above 0")
        if self.threshold is not None or self.order != "confidence" or self.remask != "none":
            raise ValueError(
                f"factor={self.factor} needs order='confidence', remask='none' and no threshold, "
                f"not order={self.order!r}, remask={self.remask!r}, threshold={self.threshold}"
            )

    @property
    def name(self) -> str:
        further = f"{self.cache}, {self.refresh}, {self.window}, {self.factor}"
        return f"cached {super().name} ({further})"

    def write(self, lm: LM, canvas: Canvas, law: Law, seed: int) -> tuple[int, int]:
        run = self.run(lm, canvas)
        calls, _ = run.write(lm, canvas, law, seed)
        return calls, run.memory.read

    def run(self, lm: LM, canvas: Canvas) -> Run:
        """One writing of a canvas, with a memory of its own."""
        # A factor keeps as many words as it finds: like a threshold it has no clock.
        threshold = self.threshold if self.factor is None else 1.0
        memory = Memory(lm, canvas, self.cache, self.block, self.refresh, self.window)
        return Run(
            self.steps, self.block, self.order, threshold, self.remask, engine=self, memory=memory
        )

    def _kept(self, sure, hidden, left) -> Bool[torch.Tensor, "B L"]:
        if self.factor is None:
            return super()._kept(sure, hidden, left)
        ranked = torch.where(hidden, sure, -torch.inf).sort(1, descending=True).values
        number = torch.arange(1, hidden.shape[1] + 1, device=sure.device)
        fine = (number + 1) * (1 - ranked) < self.factor
        return _highest(sure, hidden, fine.sum(1).clamp(min=1))


@dataclass(frozen=True, kw_only=True)
class Run(Denoise):
    """One writing: the steps of `Denoise`, with the choices of an engine and a memory."""

    engine: Cached
    memory: Memory

    def _reader(self, lm, canvas, active):
        rows, head = active.nonzero().squeeze(1), lm.head()
        back, states = active.long().cumsum(0) - 1, self.memory.states(rows)

        def logits(row: torch.Tensor, place: torch.Tensor) -> Float[torch.Tensor, "N V"]:
            return head.logits(states[back[row], canvas.start[row] + place - lm.shift])

        return logits

    def _kept(self, sure, hidden, left) -> Bool[torch.Tensor, "B L"]:
        return self.engine._kept(sure, hidden, left)


class Error(NamedTuple):
    """How far the laws that a cache gives are from those of whole readings.

    Attributes:
        mean, worst: total variation distance, from 0 to 1, over all places of all steps.
        agreed: share of them where the likeliest word is the same.
        read: tokens fed, as a share of those that whole readings need.
    """

    mean: float
    worst: float
    agreed: float
    read: float


@torch.no_grad()
def error(lm: LM, requests: Sequence[Request], law: Law, seed: int, engine: Cached) -> Error:
    """What an engine's cache costs and saves on the way that it takes itself.

    TV = 1/2 sum_v |p(v) - q(v)|, p and q at temperature 1, before truncation.

    Args:
        requests: with canvases of one size.
    """
    canvas = Canvas.of(lm, requests)
    run = _Compared(**vars(engine.run(lm, canvas)))
    _, whole = run.write(lm, canvas, law, seed)
    apart, agreed = (torch.cat(each) for each in zip(*run.found, strict=True))
    shares = float(apart.mean()), float(apart.max()), float(agreed.double().mean())
    return Error(*shares, run.memory.read / whole)


@dataclass(frozen=True, kw_only=True)
class _Compared(Run):
    """A run that also reads all of the canvas at each step, and notes distances and agreement."""

    found: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def _reader(self, lm, canvas, active):
        ours = super()._reader(lm, canvas, active)
        exact = Denoise._reader(self, lm, canvas, active)

        def logits(row: torch.Tensor, place: torch.Tensor) -> Float[torch.Tensor, "N V"]:
            found = ours(row, place)
            p, q = (Law().log_probs(x)[0].exp() for x in (found, exact(row, place)))
            self.found.append(((p - q).abs().sum(-1) / 2, p.argmax(-1) == q.argmax(-1)))
            return found

        return logits
