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
RANKED = ("confidence", "margin")
"""Orders whose sureness is a share from 0 to 1, which a threshold can be about."""
ROWS, PLACES = 256, 2048
"""Rows that are denoised together, and places whose words are weighed together: bounds on memory,
without effect on what is drawn."""


@dataclass(frozen=True)
class Denoise:
    """How canvases are written.

    Blocks are written from left to right, each in its share of the steps, at least one. At a step
    the hidden places of the block have words drawn for them, and the surest are kept: as many as
    the steps that are left need, in even shares, the first ones larger. The mask is no word: it is
    never drawn, and the log-probabilities `raw`, of the whole law, say what it takes from others.

    Sources: LLaDA, 2502.09992 (blocks, confidence); Dream (margin, entropy); Fast-dLLM, 2505.22618
    (threshold); MDPO, 2508.13048 (running confidence). Classifier-free guidance: 2309.17421.

    Attributes:
        steps: for the whole canvas; by default one for each place of it.
        block: places of a block; by default all of them.
        order: which words are kept: of highest probability, margin or lowest entropy, at random,
            or from left to right.
        threshold: keep instead every word of at least that sureness, and the surest in any case;
            for the orders "confidence" and "margin".
        remask: "running" decodes all hidden places of the block at a step, and takes the least
            sure words of the block back, those of earlier steps included.
        guidance: w of (1 + w) log p(. | prompt) - w log p(. | no prompt), a second reading.

    Raises:
        ValueError: an unknown order or remasking, a size or share that is not allowed, or a
            threshold that would mean nothing; and when drawing, a model without a mask token, a
            canvas that does not fit, or no prompt where outputs stand one column before.
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
        if self.threshold is not None and (self.order not in RANKED or self.remask != "none"):
            raise ValueError(
                f"threshold={self.threshold} with order={self.order!r} and remask={self.remask!r}: "
                f"a threshold is for the orders {', '.join(RANKED)}, without remasking"
            )
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
                if bool((canvas.start < lm.shift).any()):
                    raise ValueError(
                        f"{lm.name} says what stands at a place one column before it: a canvas "
                        "needs a prompt, of at least one token"
                    )
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
        places = torch.arange(size, device=canvas.ids.device)
        calls = read = 0
        for start in range(0, size, width):
            end = min(start + width, size)
            inside = (places >= start) & (places < end)
            turns = self._turns(start, end, size)
            for turn in range(turns if self.threshold is None else width):
                active = (canvas.hidden & inside).any(1)
                if not active.any():
                    break
                canvas.taken += active
                self._step(lm, canvas, active, inside, law, seed, (turn, turns))
                readings = 2 if self.guidance else 1
                calls += int(active.sum()) * readings
                read += int(canvas.real[active].sum()) * readings
        return calls, read

    def _turns(self, start: int, end: int, size: int) -> int:
        """Steps of a block: its places' share of all, the first blocks larger, at least one."""
        steps = self.steps or size
        return max(1, -(-steps * end // size) + (-steps * start // size))

    def _step(self, lm, canvas, active, inside, law, seed, clock) -> None:
        """Draw for the hidden places of a block in the active rows, and keep some.

        `clock` is the number of the step in its block, from 0 on, and how many it has.
        """
        turn, turns = clock
        hidden = canvas.hidden & inside & active[:, None]
        words = self._drafted(lm, canvas, active, hidden, law, seed)
        if self.remask == "running":
            canvas.put(hidden, words)
            inner = canvas.open & inside & active[:, None]
            each, more = inner.sum(1) // turns, inner.sum(1) % turns
            kept = each * (turn + 1) + more.clamp(max=turn + 1)
            canvas.hide(inner & ~_highest(canvas.sure, inner, kept), lm.mask)
            return
        canvas.put(self._kept(canvas.sure, hidden, turns - turn), words)

    def _drafted(self, lm, canvas, active, hidden, law, seed) -> Int[torch.Tensor, "B L"]:
        """A word for each hidden place of the active rows, 0 elsewhere."""
        row, place = hidden.nonzero(as_tuple=True)
        read, words = self._reader(lm, canvas, active), torch.zeros_like(canvas.step)
        for some in torch.arange(len(row), device=row.device).split(PLACES):
            at = row[some], place[some]
            words[at] = self._propose(canvas, lm, law, seed, *at, read(*at))
        return words

    def _propose(self, canvas, lm, law, seed, row, place, logits) -> Int[torch.Tensor, "N"]:
        """A word for each place, and what is noted of it."""
        raw, drawn = law.log_probs(logits)[0], law.log_probs(without(logits, lm.mask))[1]
        position = canvas.taken[row] * canvas.hidden.shape[1] + place
        numbers = uniform(seed, canvas.keys[row], canvas.samples[row], position)
        words = drawn.argmax(-1) if law.greedy else draw(drawn, numbers)
        for noted, values in ((canvas.logp, drawn), (canvas.raw, raw)):
            noted[row, place] = values.gather(-1, words[:, None]).squeeze(-1).to(noted.dtype)
        sure = self._sure(logits, words, place, seed, canvas, row, position)
        canvas.sure[row, place] = sure.to(canvas.sure.dtype)
        canvas.step[row, place] = canvas.taken[row]
        return words

    def _kept(self, sure, hidden, left) -> Bool[torch.Tensor, "B L"]:
        if self.threshold is not None:
            best = _highest(sure, hidden, hidden.any(1).long())
            return hidden & ((sure >= self.threshold) | best)
        count = -(-hidden.sum(1) // left)
        return _highest(sure, hidden, count)

    def _reader(self, lm, canvas, active):
        """The canvases are read: what gives the logits of some of their places."""
        rows, head = active.nonzero().squeeze(1), lm.head()
        back = active.long().cumsum(0) - 1

        def states(ids: torch.Tensor) -> torch.Tensor:
            return lm.hidden(ids, canvas.real[rows], use_cache=False).last_hidden_state

        full = states(canvas.ids[rows])
        free: torch.Tensor | None = None
        if self.guidance:
            columns = torch.arange(canvas.ids.shape[1], device=rows.device)
            prompt = columns < canvas.start[rows][:, None]
            free = states(torch.where(prompt, lm.mask, canvas.ids[rows]))

        def logits(row: torch.Tensor, place: torch.Tensor) -> Float[torch.Tensor, "N V"]:
            at = back[row], canvas.start[row] + place - lm.shift
            found = head.logits(full[at])
            if free is None:
                return found
            return (1 + self.guidance) * found - self.guidance * head.logits(free[at])

        return logits

    def _sure(self, logits, words, place, seed, canvas, row, position):
        """What words are kept by: the highest."""
        if self.order == "left":
            return -place.to(logits.dtype)
        if self.order == "random":
            return uniform(~seed, canvas.keys[row], canvas.samples[row], position)
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
