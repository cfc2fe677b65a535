"""What each loss value counts. The weights of a batch are made once, before it is split, so that
micro-batches and ranks cannot change a denominator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float

from autodidact.batch import Batch
from autodidact.method import token_mean
from autodidact.names import choose
from autodidact.parallel import total

Normalise = Literal["token", "sequence", "constant", "sum"]
Weigh = Callable[[Batch], Float[torch.Tensor, "B T"] | Float[torch.Tensor, "B"]]


def sequence_mean(batch: Batch) -> Float[torch.Tensor, "B T"]:
    """1 / (rows x own tokens of the row): every row counts alike."""
    length = batch.own.sum(1, keepdim=True).clamp(min=1)
    return batch.own / length / total(torch.tensor(len(batch), device=batch.ids.device))


def told_mean(batch: Batch) -> Float[torch.Tensor, "B T"]:
    """One over the number of own tokens about which a teacher was told something, see `contexts`.

    Other tokens do not count; it is `token_mean` where all rows were told.
    """
    told = batch.own * batch.take("told")[:, None] if "told" in batch.streams else batch.own
    return told / total(told.sum()).clamp(min=1)


def constant(batch: Batch, length: int) -> Float[torch.Tensor, "B T"]:
    """1 / (rows x length): a longer row counts more, whatever its neighbours are."""
    return batch.own / (length * total(torch.tensor(len(batch), device=batch.ids.device)))


def row_mean(batch: Batch) -> Float[torch.Tensor, "B"]:
    """1 / rows, for losses with one value a row."""
    rows = total(torch.tensor(float(len(batch)), device=batch.ids.device))
    return torch.ones(len(batch), device=batch.ids.device) / rows


def finished(weigh: Weigh) -> Weigh:
    """The same weights per token, but 0 for rows that ran out of length (stream `finished`).

    The denominators keep their tokens: nobody else counts more because a neighbour was cut off.
    """
    return lambda batch: weigh(batch) * batch.take("finished")[:, None]


def normalised(kind: Normalise, length: int) -> Weigh:
    """The `weigh` of that name; `length` is the constant of "constant", and 1 is that of "sum"."""
    choose("normalise", kind, get_args(Normalise))
    if kind in ("constant", "sum"):
        return lambda batch: constant(batch, length if kind == "constant" else 1)
    return {"token": token_mean, "sequence": sequence_mean}[kind]
