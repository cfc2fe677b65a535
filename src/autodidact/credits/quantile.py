"""Which tokens are among the highest of a batch, over all ranks.

Shapes: B rows, T columns, n values here, m everywhere.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from jaxtyping import Bool, Float, Shaped

from autodidact.parallel import taking_part, total

Amount = int | Fraction | float

SLACK = 1e-5
"""Tokens this near to the last that is kept are kept too: they differ by rounding, if at all."""


def highest(
    values: Float[torch.Tensor, "B T"], counted: Bool[torch.Tensor, "B T"], share: Amount
) -> Bool[torch.Tensor, "B T"]:
    """The share of the counted tokens of all ranks with the highest values, rounded up.

    All that tie with the last of them are among them. Nothing is chosen of nothing, and of a
    share of 0.
    """
    known = everywhere(values[counted])
    if not len(known) or share <= 0:
        return torch.zeros_like(counted)
    last = known.topk(math.ceil(share * len(known))).values[-1]
    return counted & (values >= last - SLACK * last.abs().clamp(min=1))


def quantile(
    values: Float[torch.Tensor, "B T"], counted: Bool[torch.Tensor, "B T"], share: float
) -> Float[torch.Tensor, ""]:
    """The value below which this share of the counted tokens of all ranks lies, interpolated.

    As `numpy.quantile`, without the bound that `torch.quantile` has on their number; NaN of
    nothing.
    """
    known = everywhere(values[counted]).sort().values
    if not len(known):
        return values.new_tensor(math.nan)
    place = share * (len(known) - 1)
    low = math.floor(place)
    return torch.lerp(known[low], known[math.ceil(place)], place - low)


def everywhere(values: Shaped[torch.Tensor, "n"]) -> Shaped[torch.Tensor, "m"]:
    """The values of all ranks, which may have different numbers of them."""
    ranks, here = taking_part()
    if ranks == 1:
        return values
    sizes = torch.zeros(ranks, dtype=torch.long, device=values.device)
    sizes[here] = len(values)
    ends = total(sizes).cumsum(0).tolist()
    found = values.new_zeros(ends[-1])
    found[ends[here] - len(values) : ends[here]] = values
    return total(found)
