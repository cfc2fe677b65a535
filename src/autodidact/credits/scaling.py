"""Numbers of tokens brought to a common scale.

Shapes: B rows, T columns. `among` says which tokens count; elsewhere the result is 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int

from autodidact.credits.group import group_sum
from autodidact.parallel import total

Numbers = Float[torch.Tensor, "B T"]
Among = Bool[torch.Tensor, "B T"]


def whiten(values: Numbers, among: Among, eps: float = 1e-8, *, centre: bool = True) -> Numbers:
    """(x - mean) / sqrt(var + eps) over all tokens of all ranks, with the variance of n, not n - 1.

    `centre=False` leaves the mean in. Sums are in float64; equal values give 0.
    """
    kept = torch.where(among, values, 0.0).double()
    count = total(among.sum().double()).clamp(min=1)
    mean = total(kept.sum()) / count
    apart = torch.where(among, kept - mean, 0.0)
    scale = (total((apart**2).sum()) / count + eps).sqrt()
    return ((apart if centre else kept) / scale).to(values.dtype)


def minmax(
    values: Numbers, among: Among, part: Int[torch.Tensor, "B"] | None = None, flat: float = 0.0
) -> Numbers:
    """(x - min) / (max - min) over the tokens of each row, or of each part of the rows.

    Args:
        part: rows of one number are scaled together, such as those of a group.
        flat: what the tokens get where all values are equal, and 0 / 0 says nothing.
    """
    low = _extreme(values, among, part, largest=False)
    high = _extreme(values, among, part, largest=True)
    reach = high - low
    scaled = torch.where(reach > 0, (values - low) / torch.where(reach > 0, reach, 1.0), flat)
    return torch.where(among, scaled, 0.0)


def token_group_mean_std(
    values: Numbers, among: Among, group: Int[torch.Tensor, "B"]
) -> tuple[Float[torch.Tensor, "B"], Float[torch.Tensor, "B"]]:
    """Mean and standard deviation (of n) over all tokens of the row's group, for each row."""
    kept = torch.where(among, values, 0.0).double()
    count = group_sum(among.sum(1).double(), group).clamp(min=1)
    mean = group_sum(kept.sum(1), group) / count
    apart = torch.where(among, kept - mean[:, None], 0.0)
    std = (group_sum((apart**2).sum(1), group) / count).sqrt()
    return mean.to(values.dtype), std.to(values.dtype)


def _extreme(
    values: Numbers, among: Among, part: Int[torch.Tensor, "B"] | None, *, largest: bool
) -> Float[torch.Tensor, "B 1"]:
    """The largest or smallest value of each row's part, 0 where nothing counts."""
    sign = 1.0 if largest else -1.0
    rows = torch.where(among, sign * values, -torch.inf).amax(1)
    if part is not None:
        index = part.unique(return_inverse=True)[1]
        worst = rows.new_full((int(index.max()) + 1,), -torch.inf)
        rows = worst.scatter_reduce(0, index, rows, "amax")[index]
    return (sign * torch.where(rows.isinf(), 0.0, rows))[:, None]
