"""Which rows of a batch are worth an update, and numbers to choose tokens by chance.

Shapes: B rows, T columns. Both depend on what the rows say, never on how they stand in a batch.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int

from autodidact.batch import Batch
from autodidact.credits.quantile import Amount, everywhere
from autodidact.law import prompt_key, uniform
from autodidact.parallel import taking_part

SLACK = 1e-6
"""Values of rows that are this near to each other are the same, as far as rounding can tell."""


def row_names(batch: Batch) -> Int[torch.Tensor, "B"]:
    """A 63-bit name of each row, made of its tokens: rows that say the same share it."""
    pairs = zip(batch.ids, batch.real, strict=True)
    names = [prompt_key(ids[real].tolist()) for ids, real in pairs]
    return torch.tensor(names, dtype=torch.long, device=batch.ids.device)


def random_numbers(batch: Batch) -> Float[torch.Tensor, "B T"]:
    """Numbers between 0 and 1 for the own tokens, fixed by the row's tokens and the place; else 0.

    Chance as data: a choice by them is the same after any padding, split or shuffle.
    """
    names = row_names(batch)[:, None]
    places = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    found = uniform(0, names, torch.zeros_like(names), places)
    return torch.where(batch.own, found, 0.0)


def most_varied(
    values: Float[torch.Tensor, "B"], names: Int[torch.Tensor, "B"], share: Amount
) -> Bool[torch.Tensor, "B"]:
    """Those N of all rows, N the share rounded up, whose values have the largest variance.

    S = argmax_{|S| = N} Var(x_S): in the order of the values the lowest k and the highest N - k,
    for the best k of 0 to N, the least of several. Among rows of equal values those come first
    whose name is lower. Rows of all ranks are compared.

    Source: down-sampling of rollouts, PODS, arXiv 2504.13818, and D3S, arXiv 2509.22115.
    """
    _, here = taking_part()
    owner = everywhere(torch.full_like(names, here))
    known = (everywhere(values.double()) / SLACK).round()
    keys = zip(known.tolist(), everywhere(names).tolist(), range(len(known)), strict=True)
    order = torch.tensor([i for *_, i in sorted(keys)], dtype=torch.long, device=names.device)
    chosen = torch.zeros_like(owner, dtype=torch.bool)
    count = min(math.ceil(share * len(known)), len(known))
    if count > 0:
        low = _lowest(known[order], count)
        chosen[order[:low]] = True
        chosen[order[len(order) - (count - low) :]] = True
    return chosen[owner == here]


def _lowest(values: Float[torch.Tensor, "n"], count: int) -> int:
    """How many of the `count` are taken from the lower end of sorted values."""
    centred = values - values.mean()
    moments = [torch.nn.functional.pad((centred**p).cumsum(0), (1, 0)) for p in (1, 2)]
    rest = len(values) - count
    # Left out are `rest` neighbours, behind the first k.
    first, second = (m[-1] - (m[rest:] - m[: count + 1]) for m in moments)
    return int((second / count - (first / count) ** 2).argmax())
