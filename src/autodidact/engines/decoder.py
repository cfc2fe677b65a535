"""Decoders: what reads one more token of every row that is being written.

Shapes: B live rows, D hidden size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch.nn.functional import pad

from autodidact.engines.prefill import prefill
from autodidact.model import LM


class Decoder(Protocol):
    """Rows that are being written.

    Attributes:
        refills: whether rows may join others that are already on their way.
        read: prompt tokens that have been read.
    """

    refills: bool
    read: int

    def admit(
        self, prompts: Sequence[Sequence[int]], copies: Sequence[int]
    ) -> Float[torch.Tensor, "B D"]:
        """Read prompts and add so many rows of each. Returns the last hidden states of these."""
        ...

    def keep(self, rows: Int[torch.Tensor, "B"]) -> None:
        """Drop all rows but these."""
        ...

    def step(self, tokens: Int[torch.Tensor, "B"]) -> Float[torch.Tensor, "B D"]:
        """Read one token of each row."""
        ...


class Whole:
    """Any model of transformers, through its own forward pass and cache."""

    refills = False

    def __init__(self, lm: LM):
        self.lm, self.read = lm, 0

    def admit(self, prompts, copies):
        self.cache, hidden, real, position, count = prefill(self.lm, prompts)
        self.read += count
        source = repeated(copies, hidden.device)
        self.cache.batch_select_indices(source)
        self.real, self.position = real[source], position[source]
        return hidden[source]

    def keep(self, rows):
        self.cache.batch_select_indices(rows)
        self.real, self.position = self.real[rows], self.position[rows]

    def step(self, tokens):
        self.position = self.position + 1
        self.real = pad(self.real, (0, 1), value=True)
        return self.lm.hidden(
            tokens[:, None], self.real, position_ids=self.position[:, None],
            past_key_values=self.cache, use_cache=True,
        ).last_hidden_state[:, -1]  # fmt: skip


def side_by_side(
    reads: Sequence[tuple[int, ...]],
) -> tuple[dict[tuple[int, ...], int], list[int]]:
    """What rows read, with how many read it, and the rows in that order, as `admit` adds them."""
    copies = dict(Counter(reads))
    place = {read: number for number, read in enumerate(copies)}
    return copies, sorted(range(len(reads)), key=lambda row: place[reads[row]])


def repeated(copies: Sequence[int], device: torch.device) -> Int[torch.Tensor, "B"]:
    """The number of its prompt for each row."""
    counts = torch.tensor(copies, device=device)
    return torch.arange(len(copies), device=device).repeat_interleave(counts)
