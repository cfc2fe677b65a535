"""Likelihoods of texts with pieces that nobody drew, most of which are not to be learned.

Shapes: B rows, T columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from autodidact.batch import Batch
from autodidact.credits.quantile import highest
from autodidact.losses.likelihood import Likelihood

if TYPE_CHECKING:
    from autodidact.models import Models
    from autodidact.scores import Scores


@dataclass(frozen=True)
class Hinted(Likelihood):
    """A `Likelihood` that has a gradient at few of the tokens of hints (stream `hint`).

    These are the share `learned` of all hint tokens at which the policy's law has the highest
    entropy before the update. The others count with their value: in ratios of sequences too.

    Source: IGPO, arXiv 2509.10396, section on entropy-based filtering.

    Raises:
        ValueError: as `Likelihood`, and a share outside 0 to 1.
    """

    learned: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.learned <= 1:
            raise ValueError(f"learned={self.learned} is a share: it must be from 0 to 1")

    def credit(self, batch: Batch, models: Models) -> Batch:
        """Also stream `mute` [B, T], 1 at tokens without a gradient."""
        batch = super().credit(batch, models)
        views = self.views(batch, models, "policy", "policy", grad=False)
        entropy = models.scores(views, batch)["policy"].entropy
        hint = (batch.take("hint") == 1) & batch.own
        mute = hint & ~highest(entropy, hint, self.learned)
        return batch.put(mute=mute.to(torch.int8))

    def logp(
        self, scores: Mapping[str, Scores], batch: Batch, name: str
    ) -> Float[torch.Tensor, "B T"]:
        found = super().logp(scores, batch, name)
        if "mute" not in batch.streams:
            return found
        return torch.where(batch.take("mute") == 1, found.detach(), found)
