"""How likely the policy finds its own tokens: the question every policy gradient asks.

Shapes: B rows, T columns. A causal model answers by one reading of the row (`Plain`); for a masked
model there are several surrogates, see `losses.likelihood`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float

from autodidact.batch import Batch
from autodidact.losses.importance import both_laws
from autodidact.view import View, plain

if TYPE_CHECKING:
    from autodidact.models import Models
    from autodidact.scores import Scores

Values = Float[torch.Tensor, "B T"]


class Reading(Protocol):
    """What is read for the log-probabilities of own tokens, and how they are made of it."""

    @property
    def masked(self) -> bool:
        """Whether it asks a masked model."""
        ...

    def credit(self, batch: Batch, models: Models) -> Batch:
        """The batch with the noise of the readings, and what the ratio is to, as data."""
        ...

    def views(
        self, batch: Batch, models: Models, name: str, role: str, *, grad: bool | None = None
    ) -> dict[str, View]:
        """What a role reads, under a name; further readings are called `name:1`, `name:2` ..."""
        ...

    def logp(self, scores: Mapping[str, Scores], batch: Batch, name: str) -> Values:
        """Of the whole law of that role, at each own token."""
        ...

    def laws(self, scores: Mapping[str, Scores], batch: Batch) -> tuple[Values, Values]:
        """log p of the policy, differentiable, and log mu: equal where the weights are."""
        ...


@dataclass(frozen=True)
class Plain:
    """The row as it is, by a causal model."""

    masked: bool = False

    def credit(self, batch: Batch, models: Models) -> Batch:
        return batch

    def views(
        self, batch: Batch, models: Models, name: str, role: str, *, grad: bool | None = None
    ) -> dict[str, View]:
        return {name: plain(batch, role, grad=grad)}

    def logp(self, scores: Mapping[str, Scores], batch: Batch, name: str) -> Values:
        return scores[name].logp

    def laws(self, scores: Mapping[str, Scores], batch: Batch) -> tuple[Values, Values]:
        return both_laws(scores["policy"], batch)
