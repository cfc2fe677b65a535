"""A method: four verbs with defaults. One file, one paper, one factory function.

rollout(problems, models, task, seed) -> Batch     tokens appear
credit(batch, models) -> Batch                     what tokens are worth; no gradient
views(batch, models) -> {name: View}               who reads what
loss(scores, batch) -> [B, T] or [B]               a value per token or row
weigh(batch) -> [B, T] or [B]                      what each value counts in the sum
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec

import torch
from jaxtyping import Float

from autodidact.auxiliary import Auxiliary
from autodidact.batch import Batch, Unit
from autodidact.parallel import total
from autodidact.view import View, plain

if TYPE_CHECKING:
    from autodidact.models import Models
    from autodidact.problem import Problem, Task
    from autodidact.scores import Scores

P = ParamSpec("P")
Values = Float[torch.Tensor, "B T"] | Float[torch.Tensor, "B"]


class Rollout(ABC):
    """How tokens appear.

    Attributes:
        n: rows drawn for each problem.
        draws: whether tokens are generated at all.
    """

    n: int
    draws: ClassVar[bool] = True

    def problems(self, rows: int) -> int:
        """How many problems a step of so many drawn rows takes.

        Raises `ValueError` where the rows are no multiple of `n`.
        """
        if rows < self.n or rows % self.n:
            raise ValueError(f"rows={rows} must be a multiple of the {self.n} rows of a problem")
        return rows // self.n

    def state(self) -> Mapping[str, Any] | None:
        """What lasts from one call to the next, as JSON has it; `None` where nothing does."""
        return None

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        raise AssertionError(f"{type(self).__name__} keeps nothing")

    def fresh(self) -> Rollout:
        """The same rollout, which has kept nothing yet."""
        return self

    @abstractmethod
    def __call__(
        self, problems: Sequence[Problem], models: Models, task: Task, seed: int
    ) -> Batch: ...


def token_mean(batch: Batch) -> Float[torch.Tensor, "B T"]:
    """One over the number of own tokens of the whole batch: every token counts alike."""
    return batch.own / total(batch.own.sum()).clamp(min=1)


def own_view(batch: Batch, models: Models) -> Mapping[str, View]:
    """The policy reads the rows as they are."""
    return {"policy": plain(batch)}


def unchanged(batch: Batch, models: Models) -> Batch:
    return batch


def loss_itself(scores: Mapping[str, Scores], batch: Batch, values: torch.Tensor) -> torch.Tensor:
    """The default signal: the value of the loss at each token."""
    return (
        values.detach() if values.shape == batch.ids.shape else values.detach()[:, None] * batch.own
    )


@dataclass(frozen=True)
class Method:
    """What a paper changes.

    Attributes:
        rollout, loss, credit, views, weigh: the verbs, see the top of this file.
        unit: "group" keeps the rows of a group in one piece when a batch is split.
        needs: the fields of `Problem` that it cannot do without.
        epochs: updates made on one batch of rollouts.
        stale: its loss is right on tokens that older weights drew, as it has a ratio to the law
            that drew them, or takes them as given; what `Run.staleness` above 0 asks for.
        signal: [B, T], what each token is told: shown in the token view, and its mean size is
            logged. Takes (scores, batch, loss values).
        signal_name: what that number is, such as "divergence to the teacher (nats)".
        masked: it trains a masked language model, and no causal one.
        roles: what its credit reads beside the roles of its views; they are made at the start.
        auxiliaries: networks that are trained beside the policy, once on each batch.
        name, arguments: the call that made it; filled in by `factory`.
    """

    rollout: Rollout
    loss: Callable[[Mapping[str, Scores], Batch], Values]
    credit: Callable[[Batch, Models], Batch] = unchanged
    views: Callable[[Batch, Models], Mapping[str, View]] = own_view
    weigh: Callable[[Batch], Values] = token_mean
    unit: Unit = "row"
    needs: tuple[str, ...] = ()
    epochs: int = 1
    stale: bool = False
    signal: Callable[..., Float[torch.Tensor, "B T"]] = loss_itself
    signal_name: str = "loss (nats)"
    masked: bool = False
    roles: tuple[str, ...] = ()
    auxiliaries: tuple[Auxiliary, ...] = ()
    name: str = ""
    arguments: Mapping[str, Any] | None = None


def factory(make: Callable[P, Method]) -> Callable[P, Method]:
    """Mark a function as a paper: its methods remember the call that made them."""

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> Method:
        bound = inspect.signature(make).bind(*args, **kwargs)
        bound.apply_defaults()
        return replace(make(*args, **kwargs), name=make.__name__, arguments=dict(bound.arguments))

    return call
