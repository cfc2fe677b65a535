"""What has been read of canvases: keys and values of all columns, of which some are read again.

Shapes: B rows of a canvas, R of them that are read, S columns, F of them that are fed, H heads of
E, D hidden size.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int

from autodidact.engines.canvas import Canvas
from autodidact.model import LM

Kept = Literal["none", "prefix", "dual", "free"]
NEVER = 2**31
"""More readings than there are since all of a row was read."""


class Columns:
    """Keys and values of all columns of all rows as last read; a cache to transformers' models.

    Attributes:
        layers: keys and values of each layer, [B, H, S, E].
        fed: which rows [R] and which of their columns [R, F] are fed; `None` for all of them.
    """

    def __init__(self, rows: int, columns: int):
        self.shape = rows, columns
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.fed: tuple[torch.Tensor, torch.Tensor | None]

    def update(self, keys, values, layer: int, *_: Any, **__: Any):
        """Put fresh keys and values in their columns; returns those of all columns."""
        rows, columns = self.shape
        fresh = keys, values
        if layer == len(self.layers):
            empty = [x.new_zeros(rows, x.shape[1], columns, x.shape[3]) for x in fresh]
            self.layers.append((empty[0], empty[1]))
        row, column = self.fed
        for store, new in zip(self.layers[layer], fresh, strict=True):
            if column is None:
                store[row] = new
            else:
                store[row[:, None], :, column] = new.transpose(1, 2)
        return fresh if column is None else tuple(store[row] for store in self.layers[layer])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Every column is there to be read, those that are fed in their places."""
        return self.shape[1], 0


class Memory:
    """What has been read of a canvas, and when.

    Attributes:
        age: [B], readings since all of a row was read, that one included.
        block: [B], the block that was being written then.
        read: tokens that were fed.
    """

    def __init__(
        self,
        lm: LM,
        canvas: Canvas,
        kind: Kept,
        width: int | None,
        refresh: int | None,
        window: int,
    ):
        rows, self.columns = canvas.ids.shape
        self.lm, self.canvas, self.kind = lm, canvas, kind
        self.size = canvas.hidden.shape[1]
        self.width = min(width or self.size, self.size)
        self.refresh = refresh or NEVER
        self.back = lm.shift + (window if kind == "free" else 0)
        self.kept = Columns(rows, self.columns)
        self.age = torch.full((rows,), NEVER, device=canvas.ids.device)
        self.block = torch.full_like(self.age, -1)
        self.read = 0

    def states(self, rows: Int[torch.Tensor, "R"]) -> Float[torch.Tensor, "R S D"]:
        """Last hidden states of the rows; those about the block that is written are fresh."""
        # A row writes its first hidden place's block, and all that are written write the same.
        block = int(self.canvas.hidden[rows].long().argmax(1).min()) // self.width
        first, last = self.reach(rows, block)
        every = self.stale(rows, block, first, last)
        self.block[rows] = block
        self.age[rows] = torch.where(every, 1, self.age[rows] + 1)
        if every.all():
            return self.hidden(rows, None)
        fed = self.fed(first[~every], last[~every])
        part = self.hidden(rows[~every], fed)
        states = part.new_zeros(len(rows), self.columns, part.shape[2])
        states[(~every).nonzero(), fed] = part
        if every.any():
            states[every] = self.hidden(rows[every], None)
        return states

    def reach(
        self, rows: Int[torch.Tensor, "R"], block: int
    ) -> tuple[Int[torch.Tensor, "R"], Int[torch.Tensor, "R"]]:
        """The first column that is fed to write the block, and the one after the last."""
        start = self.canvas.start[rows]
        end, begin = start + self.size, start + block * self.width
        last = (begin + self.width).clamp(max=end) if self.kind == "dual" else end
        return (begin - self.back).clamp(min=0), last

    def stale(self, rows, block: int, first, last) -> Bool[torch.Tensor, "R"]:
        """Which rows are read as a whole."""
        every = self.age[rows] >= self.refresh
        every |= (first == 0) & (last == self.canvas.start[rows] + self.size)
        if self.kind == "none" or (self.kind == "free" and block == 0):
            return torch.ones_like(every)
        return every if self.kind == "free" else every | (self.block[rows] != block)

    def fed(
        self, first: Int[torch.Tensor, "R"], last: Int[torch.Tensor, "R"]
    ) -> Int[torch.Tensor, "R F"]:
        """Columns that end together; those before a row's first token are its padding columns."""
        most = int((last - first).max())
        columns = torch.arange(-most, 0, device=last.device)
        return (last[:, None] + columns) % self.columns

    def hidden(self, rows: Int[torch.Tensor, "R"], fed: Int[torch.Tensor, "R F"] | None):
        """Read these columns of the rows, or all; [R, F, D]."""
        ids, real = self.canvas.ids[rows], self.canvas.real[rows]
        self.kept.fed = rows, fed
        more = {} if fed is None else {"position_ids": fed}
        self.read += int((real if fed is None else real.gather(1, fed)).sum())
        return self.lm.hidden(
            ids if fed is None else ids.gather(1, fed), real,
            past_key_values=self.kept, use_cache=True, **more,
        ).last_hidden_state  # fmt: skip
