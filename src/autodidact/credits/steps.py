"""The steps of completions, as text and as spans of tokens.

Shapes: B rows, T columns. Steps are numbered from 0 on in each row.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from autodidact.batch import Batch
from autodidact.credits.spans import Spans, lines
from autodidact.model import LM


@dataclass(frozen=True)
class Steps:
    """The steps of a batch.

    Attributes:
        spans: the step that each own token belongs to.
        texts: for each row what its steps say, without the mark that ends them.
    """

    spans: Spans
    texts: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, batch: Batch, lm: LM, mark: str = "\n") -> Steps:
        """The steps that a mark ends; without a mark a completion is one step."""
        spans = lines(batch, lm, mark)
        rows = []
        for ids, number in zip(batch.ids, spans.number, strict=True):
            count = int(number.max()) + 1 if number.numel() else 0
            parts = [lm.decode(ids[number == step].tolist()) for step in range(count)]
            rows.append(tuple(part.removesuffix(mark) for part in parts))
        return cls(spans, tuple(rows))

    def marked(self, chosen: Sequence[Collection[int]]) -> Float[torch.Tensor, "B T"]:
        """1 at the tokens of the steps of these numbers, given for each row."""
        table = torch.zeros(len(chosen), self.spans.most, device=self.spans.number.device)
        for row, numbers in enumerate(chosen):
            for step in numbers:
                table[row, step] = 1.0
        return self.spans.at(table)
