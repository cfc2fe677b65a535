"""How different an answer is from the others to the same question.

Shapes: B rows, T columns, D hidden size.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch.nn.functional import normalize

from autodidact.auxiliary import states
from autodidact.batch import Batch
from autodidact.credits.scaling import minmax
from autodidact.credits.spans import lines
from autodidact.models import Models

ROWS = 16
"""Rows whose states are held at a time."""
DIGITS = 5
"""Decimals of a similarity that count: rounding must not be stretched to a difference."""


@torch.no_grad()
def embeddings(
    batch: Batch, models: Models, role: str = "initial", mark: str = "</think>"
) -> Float[torch.Tensor, "B D"]:
    """A unit vector for each row: the mean of a role's last states over what the row says.

    e_i = h / |h|, h the mean over the own tokens behind the last `mark`, or over all where the
    row has none, of the states that have read them. The role reads the rows once, without
    gradient.
    """
    found = []
    for piece in batch.split(ROWS):
        parts = lines(piece, models.policy, mark).number
        said = (parts == parts.amax(1, keepdim=True)) & piece.own
        read = states(piece, models, role, "after")
        read = read.to(torch.promote_types(read.dtype, torch.float32))
        found.append(normalize((read * said[..., None]).sum(1), dim=1))
    return torch.cat(found)


def novelty(
    embedded: Float[torch.Tensor, "B D"],
    group: Int[torch.Tensor, "B"],
    side: Float[torch.Tensor, "B"],
) -> Float[torch.Tensor, "B"]:
    """How novel each row is among those of its side of its group: 0 the least, 1 the most.

    u_i = 1 - (mean_j S_ij + max_k S_ik) / 2, S = cos(e_i, e_j) cut to [0, 1], j the others of its
    side (of the group, where it is alone), k the others of the group; then (u - min) / (max - min)
    within the side, 1/2 where all are equal, and 1 for a row that is alone on its side.

    Source: EVOL-RL, arXiv 2509.15194.

    Args:
        side: rows below 0 take no part: nothing is compared with them, and they get 0.
    """
    among, number = side >= 0, group.unique(return_inverse=True)[1]
    embedded = embedded.double()
    near = (embedded @ embedded.T).clamp(0, 1)
    others = (number[:, None] == number) & among & ~torch.eye(len(side), device=side.device).bool()
    mates = others & (side[:, None] == side)
    alone = ~mates.any(1)
    compared = torch.where(alone[:, None], others, mates)
    mean = (near * compared).sum(1) / compared.sum(1).clamp(min=1)
    unlike = (1 - (mean + (near * others).amax(1)) / 2).round(decimals=DIGITS)
    part = 2 * number + (side > 0)
    scaled = minmax(unlike[:, None], among[:, None], part, flat=0.5).squeeze(1)
    return torch.where(alone & among, 1.0, scaled).to(side.dtype)
