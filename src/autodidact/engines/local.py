"""The local engine: batched decoding with PyTorch and transformers.

Prompts are read by `prefill`, once for all their samples. Finished rows leave the batch, and
waiting ones take their place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int

from autodidact.engines.decoder import Decoder, Whole
from autodidact.engines.law import Law, draw, prompt_key, uniform
from autodidact.engines.lean import Lean, lean
from autodidact.model import LM
from autodidact.store import Completion

RETIRE = 0.75
"""Finished rows are dropped when at most this share of the rows is still alive."""

SLOTS = 256
"""Rows that are written at a time."""

AHEAD = 32
"""Positions whose uniform numbers are made at once."""


@torch.no_grad()
def generate(
    lm: LM,
    prompts: Sequence[Sequence[int]],
    samples: Sequence[Sequence[int]],
    length: int,
    law: Law,
    seed: int,
    slots: int = SLOTS,
) -> list[list[Completion]]:
    """Completions of prompts, drawn from exactly the law that is given.

    The generation config of the model is not consulted, save for its end tokens. What is drawn
    depends on neither `slots` nor the other rows, beyond the rounding of their common products.

    Args:
        samples: for each prompt the numbers of the samples to draw.
        length: at most this many tokens each.
        seed: with the prompt, the number of the sample and the position it fixes every draw.
        slots: at most this many rows are written at a time.

    Raises:
        ValueError: a prompt and `length` do not fit the context of the model, or the model cannot
            be decoded, see `prefill.empty_cache`.
    """
    longest = max(map(len, prompts))
    if longest + length > lm.context:
        raise ValueError(
            f"a prompt of {longest} tokens and {length} new ones do not fit the context of "
            f"{lm.context} tokens"
        )
    owner = [row for row, numbers in enumerate(samples) for _ in numbers]
    slots = min(slots, len(owner))
    decoder: Decoder = Lean(lm, slots, longest, length) if lean(lm) else Whole(lm)
    sheet = _Sheet(lm, prompts, samples, length, law, seed)
    hidden, taken = torch.empty(0, 0), 0
    while taken < len(owner) or len(sheet.alive):
        if taken < len(owner) and (decoder.refills or not len(sheet.alive)):
            joining = owner[taken : taken + slots - len(sheet.alive)]
            rows = list(dict.fromkeys(joining))
            fresh = decoder.admit([prompts[row] for row in rows], [joining.count(r) for r in rows])
            hidden = torch.cat([hidden, fresh]) if len(sheet.alive) else fresh
            sheet.admit(taken, len(joining))
            taken += len(joining)
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
    pieces = iter(sheet.completions())
    return [[next(pieces) for _ in numbers] for numbers in samples]


class _Sheet:
    """All completions of a call, and which of them are being written.

    Attributes:
        alive: numbers of the completions that the rows of the decoder write.
        at: how many tokens of each of those are written.
    """

    def __init__(self, lm, prompts, samples, length, law, seed):
        device = lm.device
        counts = [len(numbers) for numbers in samples]
        count = sum(counts)
        keys = [prompt_key(prompt) for prompt in prompts]
        self.head, self.law, self.seed, self.length = lm.head(), law, seed, length
        self.keys = torch.tensor(
            [key for key, n in zip(keys, counts, strict=True) for _ in range(n)], device=device
        )
        self.number = torch.tensor([n for numbers in samples for n in numbers], device=device)
        self.ends = torch.tensor(sorted(lm.ends), device=device)
        # One column more than is kept: rows that are over go on writing until they are dropped.
        self.drawn = torch.zeros(count, length + 1, dtype=torch.long, device=device)
        self.logps = torch.zeros(2, count, length + 1, device=device)
        self.sizes = torch.full((count,), length, device=device)
        self.finished = torch.zeros(count, dtype=torch.bool, device=device)
        self.alive, self.at = (torch.empty(0, dtype=torch.long, device=device) for _ in range(2))
        self.uniforms: list[torch.Tensor] = []

    def admit(self, first: int, count: int) -> None:
        fresh = torch.arange(first, first + count, device=self.alive.device)
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
        place = self.alive, self.at.clamp(max=self.length)
        self.drawn[place] = tokens
        chosen = tokens[:, None]
        self.logps[(0, *place)] = kept.gather(1, chosen).squeeze(1).float()
        self.logps[(1, *place)] = raw.gather(1, chosen).squeeze(1).float()
        self.at = self.at + 1
        ended = (chosen == self.ends).any(1)
        over = ended & ~self.finished[self.alive] & (self.at <= self.length)
        self.sizes[self.alive] = torch.where(over, self.at, self.sizes[self.alive])
        self.finished[self.alive] |= over
        return tokens, ~self.finished[self.alive] & (self.at < self.length)

    def _uniform(self) -> Float[torch.Tensor, "B"]:
        if not self.uniforms:
            positions = self.at[:, None] + torch.arange(AHEAD, device=self.at.device)
            keys, number = self.keys[self.alive], self.number[self.alive]
            table = uniform(self.seed, keys[:, None], number[:, None], positions)
            self.uniforms = list(table.flip(1).T.contiguous())
        return self.uniforms.pop()

    def completions(self) -> list[Completion]:
        return [
            Completion(tokens[:size], law_logp[:size], raw_logp[:size], end)
            for tokens, law_logp, raw_logp, size, end in zip(
                self.drawn.tolist(), *self.logps.tolist(), self.sizes.tolist(),
                self.finished.tolist(), strict=True,
            )
        ]  # fmt: skip
