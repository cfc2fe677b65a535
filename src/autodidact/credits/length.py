"""What a completion loses for its length.

Shapes: B rows.
"""

from __future__ import annotations

import torch
from jaxtyping import Float

from autodidact.batch import Batch


def overlong(batch: Batch, longest: int, cushion: float) -> Float[torch.Tensor, "B"]:
    """min(0, max(-1, ((L - C) - T) / C)): 0 up to L - C own tokens, -1 from L on, a line between.

    The soft overlong punishment of DAPO (2503.14476), to be added to a reward of -1 or 1.

    Args:
        longest: L, in tokens. cushion: C, in tokens, above 0.
    """
    tokens = batch.own.sum(1).double()
    return ((longest - cushion - tokens) / cushion).clamp(-1, 0)
