"""The local engine: batched decoding with PyTorch and transformers.

Prompts are read by `prefill`, once for all their samples. Finished rows leave the batch, and
waiting ones take their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int

from autodidact.engine import Drawn, Request, fits
from autodidact.engines.copies import fast_head
from autodidact.engines.decoder import Decoder, Whole, side_by_side
from autodidact.engines.lean import Lean, lean
from autodidact.law import Law, draw, prompt_key, uniform
from autodidact.model import LM
from autodidact.store import Completion

RETIRE = 0.85
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
                cannot be decoded, see `prefill.empty_cache`, or is a masked one.
        """
        if not lm.causal:
            raise ValueError(
                f"{lm.name} is a masked model, which writes canvases: take the engine 'denoise'"
            )
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
                joining = read[taken : taken + slots - len(sheet.alive)]
                copies, order = side_by_side(joining)
                fresh = decoder.admit(list(copies), list(copies.values()))
                hidden = torch.cat([hidden, fresh]) if len(sheet.alive) else fresh
                sheet.admit([taken + number for number in order])
                taken += len(joining)
            while True:
                tokens = sheet.write(hidden)
                left = int(sheet.going.sum())
                if left <= RETIRE * len(tokens):
                    break
                hidden = decoder.step(tokens)
            keep = sheet.going.nonzero().squeeze(1)
            sheet.keep(keep)
            decoder.keep(keep)
            hidden = decoder.step(tokens[keep]) if left else hidden[:0]
        return Drawn(sheet.completions(), decoder.read)


class _Sheet:
    """All completions of a call, and which of them are being written.

    Attributes:
        alive: numbers of the completions that the rows of the decoder write.
        at: how many tokens of each of those stand in `drawn`; the later ones are in `fresh`.
        going: which rows have neither ended nor reached their length.
    """

    def __init__(self, lm: LM, requests: Sequence[Request], law: Law, seed: int):
        device, head = lm.device, fast_head(lm)
        self.head, self.law, self.seed = head, law, seed
        names = {prompt: prompt_key(prompt) for prompt in {r.prompt for r in requests}}
        self.keys, self.number, self.begun, self.limit = torch.tensor(
            [[names[r.prompt], r.sample, len(r.begun), r.length] for r in requests],
            dtype=torch.long, device=device,
        ).T  # fmt: skip
        self.ending = torch.zeros(head.words, dtype=torch.bool, device=device)
        self.ending[sorted(end for end in lm.ends if end < head.words)] = True
        # One column more than is kept: rows that are over go on writing until they are dropped.
        count, columns = len(requests), max(r.length for r in requests) + 1
        self.drawn = torch.zeros(count, columns, dtype=torch.long, device=device)
        self.logps = torch.zeros(2, count, columns, device=device)
        self.alive, self.at = (torch.empty(0, dtype=torch.long, device=device) for _ in range(2))
        self.fresh: list[tuple[torch.Tensor, ...]] = []
        self.supports: list[tuple[list[int], ...]] = []
        self._begin()

    def admit(self, numbers: Sequence[int]) -> None:
        self._flush()
        fresh = torch.tensor(numbers, device=self.alive.device)
        self.alive = torch.cat([self.alive, fresh])
        self.at = torch.cat([self.at, torch.zeros_like(fresh)])
        self._begin()

    def keep(self, rows: Int[torch.Tensor, "B"]) -> None:
        self._flush()
        self.alive, self.at = self.alive[rows], self.at[rows]
        self._begin()

    def _begin(self) -> None:
        self.going = torch.ones_like(self.alive, dtype=torch.bool)
        self.left = self.limit[self.alive] - self.at
        self.shortest = int(self.left.min()) if len(self.alive) else 0
        self.uniforms: list[torch.Tensor] = []

    def _flush(self) -> None:
        """Move the fresh tokens to where they belong."""
        if self.fresh:
            tokens, law_logp, raw_logp = (torch.stack(e, 1) for e in zip(*self.fresh, strict=True))
            steps = torch.arange(len(self.fresh), device=self.at.device)
            columns = (self.at[:, None] + steps).clamp(max=self.drawn.shape[1] - 1)
            place = self.alive[:, None], columns
            self.drawn[place] = tokens
            self.logps[(0, *place)], self.logps[(1, *place)] = law_logp.float(), raw_logp.float()
            self.at = self.at + len(self.fresh)
            self.fresh = []

    def write(self, hidden: Float[torch.Tensor, "B D"]) -> Int[torch.Tensor, "B"]:
        """Draw one token of each row."""
        raw, kept = self.law.log_probs(self.head.logits(hidden))
        tokens = draw(kept, self._uniform())
        law_logp = kept.gather(1, tokens[:, None]).squeeze(1)
        raw_logp = law_logp if kept is raw else raw.gather(1, tokens[:, None]).squeeze(1)
        if self.law.truncates:
            self._note_support(kept > -torch.inf)
        self.fresh.append((tokens, law_logp, raw_logp))
        self.going &= ~self.ending[tokens]
        if len(self.fresh) >= self.shortest:
            self.going &= self.left > len(self.fresh)
        return tokens

    def _note_support(self, kept: Bool[torch.Tensor, "B V"]) -> None:
        words, columns = kept.nonzero()[:, 1].tolist(), self.at + len(self.fresh)
        self.supports.append((self.alive.tolist(), columns.tolist(), kept.sum(1).tolist(), words))

    def _uniform(self) -> Float[torch.Tensor, "B"]:
        if not self.uniforms:
            rows, device = self.alive, self.at.device
            first = self.begun[rows] + self.at + len(self.fresh)
            positions = first[:, None] + torch.arange(AHEAD, device=device)
            table = uniform(self.seed, self.keys[rows, None], self.number[rows, None], positions)
            self.uniforms = list(table.flip(1).T.contiguous())
        return self.uniforms.pop()

    def completions(self) -> list[Completion]:
        inside = torch.arange(self.drawn.shape[1], device=self.at.device) < self.limit[:, None]
        ends = self.ending[self.drawn] & inside
        finished = ends.any(1)
        sizes = torch.where(finished, ends.int().argmax(1) + 1, self.limit).tolist()
        return [
            Completion(tokens[:size], law_logp[:size], raw_logp[:size], end, support)
            for tokens, law_logp, raw_logp, size, end, support in zip(
                self.drawn.tolist(), *self.logps.tolist(), sizes, finished.tolist(),
                self._supports(sizes), strict=True,
            )
        ]  # fmt: skip

    def _supports(self, sizes: Sequence[int]) -> Sequence[list[list[int]] | None]:
        if not self.law.truncates:
            return [None] * len(sizes)
        found: list[list[list[int]]] = [[[] for _ in range(size)] for size in sizes]
        for rows, columns, counts, words in self.supports:
            rest = iter(words)
            for row, column, count in zip(rows, columns, counts, strict=True):
                kept = [next(rest) for _ in range(count)]
                if column < sizes[row]:
                    found[row][column] = kept
        return found
