"""Spans: runs of own tokens that are worth something together.

Shapes: B rows, T columns. A span is a number for each of its tokens: spans are numbered from 0 on
in each row, tokens of no span have -1. What a span is (thought, answer, control token, step,
chunk, segment, budget, turn) is the business of whoever makes the table.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int, Num

from autodidact.batch import Batch

if TYPE_CHECKING:
    from autodidact.model import LM


@dataclass(frozen=True)
class Spans:
    """The spans of a batch.

    Attributes:
        number: [B, T], of the span that a token belongs to; -1 for none.
    """

    number: Int[torch.Tensor, "B T"]

    def __post_init__(self):
        assert (self.number >= -1).all()

    @property
    def most(self) -> int:
        """The largest number of spans in a row."""
        return int(self.number.max()) + 1 if self.number.numel() else 0

    @property
    def inside(self) -> Bool[torch.Tensor, "B T"]:
        return self.number >= 0

    def sums(self, values: Num[torch.Tensor, "B T"]) -> Num[torch.Tensor, "B K"]:
        """The sum over each span, [B, most]; 0 of a span that a row does not have."""
        found = values.new_zeros(len(values), self.most + 1)
        return found.scatter_add(1, self.number + 1, values)[:, 1:]

    def sizes(self) -> Int[torch.Tensor, "B K"]:
        """Tokens of each span."""
        return self.sums(self.inside.long())

    def means(self, values: Float[torch.Tensor, "B T"]) -> Float[torch.Tensor, "B K"]:
        return self.sums(values) / self.sizes().clamp(min=1)

    def at(self, values: Num[torch.Tensor, "B K"]) -> Num[torch.Tensor, "B T"]:
        """The value of its span at each token, 0 outside."""
        wide = torch.cat([values.new_zeros(len(values), 1), values], 1)
        return wide.gather(1, self.number + 1)

    def places(self) -> Int[torch.Tensor, "B T"]:
        """How many tokens of its span precede each token; 0 outside. Spans must be runs."""
        count = self.inside.long().cumsum(1)
        sizes = self.sizes()
        before = torch.cat([sizes.new_zeros(len(sizes), 1), sizes.cumsum(1)[:, :-1]], 1)
        return torch.where(self.inside, count - 1 - self.at(before), 0)

    @property
    def last(self) -> Bool[torch.Tensor, "B T"]:
        """The last token of each span."""
        return self.inside & (self.places() == self.at(self.sizes()) - 1)


def chunks(own: Bool[torch.Tensor, "B T"], size: int) -> Spans:
    """Runs of `size` own tokens, the last one of a row shorter where they do not fill it."""
    return Spans(torch.where(own, (own.long().cumsum(1) - 1) // size, -1))


def cut_at(own: Bool[torch.Tensor, "B T"], begins: Bool[torch.Tensor, "B T"]) -> Spans:
    """Spans that begin at the first own token of a row, and at every own token marked."""
    starts = (begins & own) | (own & (own.long().cumsum(1) == 1))
    return Spans(torch.where(own, starts.long().cumsum(1) - 1, -1))


def lines(batch: Batch, lm: LM, mark: str = "\n") -> Spans:
    """The steps of each completion: what stands between marks, each with the mark that ends it.

    A step ends with the token that completes its mark, so that marks of several characters, such
    as a blank line, and tokens of several characters may be mixed.
    """
    begins = torch.zeros_like(batch.own)
    for row in range(len(batch)):
        columns = batch.own[row].nonzero().squeeze(1)
        ids = batch.ids[row, columns].tolist()
        text = lm.decode(ids)
        ends = [i + len(mark) for i in range(len(text)) if text.startswith(mark, i)]
        places = [place for place in tokens_until(lm, ids, ends) if place < len(ids)]
        begins[row, columns[places]] = True
    return cut_at(batch.own, begins)


def tokens_until(lm: LM, ids: Sequence[int], characters: Sequence[int]) -> list[int]:
    """For each number of characters the least number of tokens that have written as many."""
    complete = written(lm, ids)
    return [bisect_left(range(len(ids) + 1), size, key=complete) for size in characters]


def written(lm: LM, ids: Sequence[int]) -> Callable[[int], int]:
    """How many characters of the text the first so many tokens have written in full.

    What a cut through a character of several tokens decodes to does not count.
    """
    text = lm.decode(ids)

    def complete(count: int) -> int:
        pairs = zip(lm.decode(ids[:count]), text, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    return complete
