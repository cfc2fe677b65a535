"""The engine of masked language models: a canvas of mask tokens, written in some order.

Shapes: B rows, L places of the canvas, S columns that are fed, N places that are read, D hidden
size, V words. At every step the model reads the canvas as it stands, a word is drawn for each
place of the block that is still hidden, and some of them are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int

from autodidact.engine import Drawn, Request
from autodidact.engines.canvas import Canvas
from autodidact.law import Law, Sure, draw, sureness, uniform, without
from autodidact.model import LM
from autodidact.names import at_least_one, choose
from autodidact.store import Completion

Order = Literal["confidence", "margin", "entropy", "random", "left"]
Remask = Literal["none", "running"]
ROWS = 256
"""Rows that are denoised together; a bound on memory, without effect on what is drawn."""


@dataclass(frozen=True)
class Denoise:
    """How canvases are written.

    Blocks are written from left to right, each in its share of the steps. At a step the m hidden
    places of the block have words drawn for them, and the surest are kept: as many as the steps
    that are left need, in even shares, the first ones larger.

    Sources: LLaDA, 2502.09992 (blocks, confidence); Dream (margin, entropy); Fast-dLLM, 2505.22618
    (threshold); MDPO, 2508.13048 (running confidence). Classifier-free guidance: 2309.17421.

    Attributes:
        steps: for the whole canvas; by default one for each place of it.
        block: places of a block; by default all of them.
        order: which words are kept: of highest probability, margin or lowest entropy, at random,
            or from left to right.
        threshold: keep instead every word of at least that sureness, and the surest in any case.
        remask: "running" decodes all hidden places of the block at a step, and takes the least
            sure words of the block back, those of earlier steps included.
        guidance: w of (1 + w) log p(. | prompt) - w log p(. | no prompt), a second reading.

    Raises:
        ValueError: an unknown order or remasking, or a size or share that is not allowed; and
            when drawing, a model without a mask token, or a canvas that does not fit.
    """

    steps: int | None = None
    block: int | None = None
    order: Order = "confidence"
    threshold: float | None = None
    remask: Remask = "none"
    guidance: float = 0.0

    def __post_init__(self):
        choose("order", self.order, get_args(Order))
        choose("remask", self.remask, get_args(Remask))
        at_least_one(**{k: getattr(self, k) for k in ("steps", "block") if getattr(self, k)})
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} must be above 0 and at most 1")
        if self.guidance < 0:
            raise ValueError(f"guidance={self.guidance} must be at least 0")

    @property
    def name(self) -> str:
        return (
            f"denoise({self.steps}, {self.block}, {self.order}, {self.threshold}, {self.remask}, "
            f"{self.guidance})"
        )

    @torch.no_grad()
    def draw(self, lm: LM, requests: Sequence[Request], law: Law, seed: int) -> Drawn:
        """One completion of each request, of the canvas's length, with its order."""
        found: dict[int, Completion] = {}
        read = calls = 0
        sizes: dict[int, list[int]] = {}
        for number, request in enumerate(requests):
            sizes.setdefault(len(request.canvas) or request.length, []).append(number)
        for size, numbers in sizes.items():
            for i in range(0, len(numbers), ROWS):
                some = [requests[number] for number in numbers[i : i + ROWS]]
                canvas = Canvas.of(lm, some)
                if canvas.ids.shape[1] > lm.context:
                    raise ValueError(
                        f"a prompt and a canvas of {size} places have {canvas.ids.shape[1]} tokens,"
                        f" more than the context of {lm.context}"
                    )
                fed = self.write(lm, canvas, law, seed)
                calls, read = calls + fed[0], read + fed[1]
                for row, number in enumerate(numbers[i : i + ROWS]):
                    found[number] = canvas.completion(row, lm.ends)
        return Drawn([found[i] for i in range(len(requests))], read, calls=calls)

    def write(self, lm: LM, canvas: Canvas, law: Law, seed: int) -> tuple[int, int]:
        """Fill the canvas. Returns how many canvases and how many tokens were read."""
        size = canvas.hidden.shape[1]
        width = min(self.block or size, size)
        blocks = -(-size // width)
        per_block = max(1, -(-(self.steps or size) // blocks))
        calls = read = step = 0
        for number in range(blocks):
            inside = torch.zeros(size, dtype=torch.bool, device=canvas.ids.device)
            inside[number * width : (number + 1) * width] = True
            for turn in range(per_block if self.threshold is None else width):
                active = (canvas.hidden & inside).any(1)
                if not active.any():
                    break
                step += 1
                self._step(lm, canvas, active, inside, law, seed, step, (turn, per_block))
                calls += int(active.sum())
                read += int(canvas.real[active].sum()) * (2 if self.guidance else 1)
        return calls, read

    def _step(self, lm, canvas, active, inside, law, seed, step, clock) -> None:
        """Draw for the hidden places of a block in the active rows, and keep some.

        `clock` is the number of the step in its block, from 0 on, and how many it has.
        """
        turn, turns = clock
        hidden = canvas.hidden & inside & active[:, None]
        row, place = hidden.nonzero(as_tuple=True)
        logits = self._logits(lm, canvas, active, row, place)
        raw, cut = law.log_probs(logits)
        # A mask is no word: it would be no answer to what stands at the place.
        drawn = without(cut, lm.mask)
        position = step * canvas.hidden.shape[1] + place
        numbers = uniform(seed, canvas.keys[row], canvas.samples[row], position)
        words = drawn.argmax(-1) if law.greedy else draw(drawn, numbers.to(logits.device))
        sure = self._sure(logits, words, place, seed, canvas, row, position)
        whole = torch.zeros_like(canvas.step)
        whole[row, place] = words
        for name, values in (("logp", drawn), ("raw", raw)):
            getattr(canvas, name)[row, place] = (
                values.gather(-1, words[:, None]).squeeze(-1).to(canvas.logp.dtype)
            )
        canvas.sure[row, place] = sure.to(canvas.sure.dtype)
        canvas.step[row, place] = step
        if self.remask == "running":
            canvas.put(hidden, whole)
            inner = canvas.open & inside & active[:, None]
            count = inner.sum(1)
            kept = count - count * (turns - 1 - turn) // turns
            canvas.hide(inner & ~_highest(canvas.sure, inner, kept), lm.mask)
            return
        canvas.put(self._kept(canvas.sure, hidden, turns - turn), whole)

    def _kept(self, sure, hidden, left) -> Bool[torch.Tensor, "B L"]:
        if self.threshold is not None:
            best = _highest(sure, hidden, hidden.any(1).long())
            return hidden & ((sure >= self.threshold) | best)
        count = -(-hidden.sum(1) // left)
        return _highest(sure, hidden, count)

    def _logits(self, lm, canvas, active, row, place) -> Float[torch.Tensor, "N V"]:
        rows = active.nonzero().squeeze(1)
        back = torch.zeros(len(active), dtype=torch.long, device=rows.device)
        back[rows] = torch.arange(len(rows), device=rows.device)
        column = canvas.start[row] + place - lm.shift
        head = lm.head()

        def read(ids: torch.Tensor) -> torch.Tensor:
            states = lm.hidden(ids, canvas.real[rows], use_cache=False).last_hidden_state
            return head.logits(states[back[row], column])

        logits = read(canvas.ids[rows])
        if self.guidance:
            columns = torch.arange(canvas.ids.shape[1], device=rows.device)
            prompt = columns < canvas.start[rows][:, None]
            free = read(torch.where(prompt, lm.mask, canvas.ids[rows]))
            logits = (1 + self.guidance) * logits - self.guidance * free
        return logits

    def _sure(self, logits, words, place, seed, canvas, row, position):
        """What words are kept by: the highest."""
        if self.order == "left":
            return -place.to(logits.dtype)
        if self.order == "random":
            return uniform(~seed, canvas.keys[row], canvas.samples[row], position).to(logits)
        kind: Sure = self.order
        return sureness(logits, words, kind)


def _highest(
    values: Float[torch.Tensor, "B L"],
    among: Bool[torch.Tensor, "B L"],
    count: Int[torch.Tensor, "B"],
) -> Bool[torch.Tensor, "B L"]:
    """The so many highest of each row, the first of equal ones first."""
    ranked = torch.where(among, values, -torch.inf).argsort(stable=True, dim=1, descending=True)
    places = torch.arange(values.shape[1], device=values.device).expand_as(ranked)
    rank = torch.empty_like(ranked).scatter_(1, ranked, places)
    return among & (rank < count[:, None])
