"""The local engine: batched decoding with PyTorch and transformers.

Prompts are read by `prefill`, once for all their samples. Finished rows leave the batch, and
waiting ones take their place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int

from autodidact.engine import Drawn, Request, fits
from autodidact.engines.decoder import Decoder, Whole
from autodidact.engines.lean import Lean, lean
from autodidact.law import Law, draw, prompt_key, uniform
from autodidact.model import LM
from autodidact.store import Completion

RETIRE = 0.75
"""Finished rows are dropped when at most this share of the rows is still alive."""

AHEAD = 32
"""Positions whose uniform numbers are made at once."""


@dataclass(frozen=True)
class Local:
    """Draws on the device of the model itself.

    The generation config of the model is not consulted, save for its end tokens. What is drawn
    depends on neither `slots` nor the other rows, beyond the rounding of their common products.

    Attributes:
        slots: at most this many rows are written at a time.
    """

    slots: int = 256
    name: ClassVar[str] = "local"

    @torch.no_grad()
    def draw(self, lm: LM, requests: Sequence[Request], law: Law, seed: int) -> Drawn:
        """One completion of each request.

        Raises:
            ValueError: a request that does not fit the context of the model, or a model that
                cannot be decoded, see `prefill.empty_cache`.
        """
        fits(lm, requests)
        read = [request.read for request in requests]
        length = max(request.length for request in requests)
        slots = min(self.slots, len(requests))
        longest = max(map(len, read))
        decoder: Decoder = Lean(lm, slots, longest, length) if lean(lm) else Whole(lm)
        sheet = _Sheet(lm, requests, law, seed)
        hidden, taken = torch.empty(0, 0), 0
        while taken < len(requests) or len(sheet.alive):
            if taken < len(requests) and (decoder.refills or not len(sheet.alive)):
                copies = Counter(read[taken : taken + slots - len(sheet.alive)])
                fresh = decoder.admit(list(copies), list(copies.values()))
                hidden = torch.cat([hidden, fresh]) if len(sheet.alive) else fresh
                sheet.admit(_together(read, taken, copies))
                taken += copies.total()
            while True:
                tokens, going = sheet.write(hidden)
                left = int(going.sum())
                if left <= RETIRE * len(going):
                    break
                hidden = decoder.step(tokens)
            keep = going.nonzero().squeeze(1)
            sheet.keep(keep)
            decoder.keep(keep)
            hidden = decoder.step(tokens[keep]) if left else hidden[:0]
        return Drawn(sheet.completions(), decoder.read)


def _together(
    read: Sequence[tuple[int, ...]], first: int, copies: Counter[tuple[int, ...]]
) -> list[int]:
    """The numbers of the requests that join, those that read the same side by side."""
    order = {prompt: place for place, prompt in enumerate(copies)}
    return sorted(range(first, first + copies.total()), key=lambda number: order[read[number]])


class _Sheet:
    """All completions of a call, and which of them are being written.

    Attributes:
        alive: numbers of the completions that the rows of the decoder write.
        at: how many tokens of each of those are written.
    """

    def __init__(self, lm: LM, requests: Sequence[Request], law: Law, seed: int):
        device = lm.device
        self.head, self.law, self.seed = lm.head(), law, seed
        names = {prompt: prompt_key(prompt) for prompt in {r.prompt for r in requests}}
        self.keys, self.number, self.begun, self.sizes = torch.tensor(
            [[names[r.prompt], r.sample, len(r.begun), r.length] for r in requests],
            dtype=torch.long, device=device,
        ).T  # fmt: skip
        self.ends = torch.tensor(sorted(lm.ends), device=device)
        # One column more than is kept: rows that are over go on writing until they are dropped.
        count, columns = len(requests), max(r.length for r in requests) + 1
        self.drawn = torch.zeros(count, columns, dtype=torch.long, device=device)
        self.logps = torch.zeros(2, count, columns, device=device)
        self.finished = torch.zeros(count, dtype=torch.bool, device=device)
        self.alive, self.at = (torch.empty(0, dtype=torch.long, device=device) for _ in range(2))
        self.uniforms: list[torch.Tensor] = []
        self.supports: list[tuple[list[int], ...]] = []

    def admit(self, numbers: Sequence[int]) -> None:
        fresh = torch.tensor(numbers, device=self.alive.device)
        self.alive = torch.cat([self.alive, fresh])
        self.at = torch.cat([self.at, torch.zeros_like(fresh)])
        self.uniforms = []

    def keep(self, rows: Int[torch.Tensor, "B"]) -> None:
        self.alive, self.at, self.uniforms = self.alive[rows], self.at[rows], []

    def write(
        self, hidden: Float[torch.Tensor, "B D"]
    ) -> tuple[Int[torch.Tensor, "B"], Bool[torch.Tensor, "B"]]:
        """Draw one token of each row. Returns them, and which rows go on."""
        raw, kept = self.law.log_probs(self.head.logits(hidden))
        tokens = draw(kept, self._uniform())
        place = self.alive, self.at.clamp(max=self.drawn.shape[1] - 1)
        self.drawn[place] = tokens
        chosen = tokens[:, None]
        self.logps[(0, *place)] = kept.gather(1, chosen).squeeze(1).float()
        self.logps[(1, *place)] = raw.gather(1, chosen).squeeze(1).float()
        if self.law.truncates:
            self._note_support(kept > -torch.inf)
        self.at = self.at + 1
        going = ~self.finished[self.alive] & (self.at <= self.sizes[self.alive])
        over = going & (chosen == self.ends).any(1)
        self.sizes[self.alive] = torch.where(over, self.at, self.sizes[self.alive])
        self.finished[self.alive] |= over
        return tokens, going & ~over & (self.at < self.sizes[self.alive])

    def _note_support(self, kept: Bool[torch.Tensor, "B V"]) -> None:
        words = kept.nonzero()[:, 1].tolist()
        self.supports.append((self.alive.tolist(), self.at.tolist(), kept.sum(1).tolist(), words))

    def _uniform(self) -> Float[torch.Tensor, "B"]:
        if not self.uniforms:
            alive = self.alive
            positions = (self.begun[alive] + self.at)[:, None] + torch.arange(
                AHEAD, device=alive.device
            )
            table = uniform(self.seed, self.keys[alive, None], self.number[alive, None], positions)
            self.uniforms = list(table.flip(1).T.contiguous())
        return self.uniforms.pop()

    def completions(self) -> list[Completion]:
        sizes = self.sizes.tolist()
        supports: list[list[list[int]] | None] = [None] * len(sizes)
        if self.law.truncates:
            supports = [[[] for _ in range(size)] for size in sizes]
            for rows, columns, counts, words in self.supports:
                rest = iter(words)
                for row, column, count in zip(rows, columns, counts, strict=True):
                    kept = [next(rest) for _ in range(count)]
                    if column < sizes[row]:
                        supports[row][column] = kept  # type: ignore[index]
        return [
            Completion(tokens[:size], law_logp[:size], raw_logp[:size], end, support)
            for tokens, law_logp, raw_logp, size, end, support in zip(
                self.drawn.tolist(), *self.logps.tolist(), sizes, self.finished.tolist(),
                supports, strict=True,
            )
        ]  # fmt: skip
