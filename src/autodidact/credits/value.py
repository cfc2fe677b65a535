"""What states are worth, as a small network beside the policy learns it from frozen states.

Shapes: B rows, T columns, D hidden size. A network reads one state for each own token, the one
from which the token is drawn or the one that has read it, and answers with a number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Bool, Float

from autodidact.auxiliary import Auxiliary, Where, states
from autodidact.batch import Batch
from autodidact.credits.returns import at_end, k1_penalty
from autodidact.credits.scaling import whiten
from autodidact.method import Method
from autodidact.names import choose
from autodidact.parallel import total
from autodidact.view import plain

if TYPE_CHECKING:
    from autodidact.models import Models

HeadKind = Literal["linear", "mlp"]
Values = Float[torch.Tensor, "B T"]


class TokenHead(torch.nn.Module):
    """States [..., D] -> numbers [...]: linear, or with one hidden layer of the same size."""

    def __init__(self, size: int, kind: HeadKind = "linear"):
        super().__init__()
        last = torch.nn.Linear(size, 1)
        inner = [] if kind == "linear" else [torch.nn.Linear(size, size), torch.nn.SiLU()]
        self.layers = torch.nn.Sequential(*inner, last)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.layers(states.to(next(self.parameters()).dtype)).squeeze(-1)


@dataclass(frozen=True)
class Beside(ABC):
    """A network beside the policy, with what it reads and how it learns.

    Attributes:
        role: whose states it reads; "initial" for frozen ones.
        lr: learning rate of its own AdamW.
    """

    role: str = "initial"
    lr: float = 1e-4

    @property
    @abstractmethod
    def name(self) -> str:
        """As in `Auxiliary`."""

    @abstractmethod
    def network(self, size: int) -> torch.nn.Module:
        """A new network for states of that size."""

    @abstractmethod
    def loss(self, network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """A value per token [B, T] or row [B]."""

    @abstractmethod
    def weigh(self, batch: Batch) -> torch.Tensor:
        """What each value counts."""

    @property
    def auxiliary(self) -> Auxiliary:
        return Auxiliary(self.name, self.network, self.loss, self.weigh, self.lr)

    def beside(self, method: Method, *roles: str) -> Method:
        """The method with this network; `roles` are others that its credit reads."""
        return replace(
            method,
            roles=tuple(dict.fromkeys((*method.roles, self.role, *roles))),
            auxiliaries=(*method.auxiliaries, self.auxiliary),
        )


@dataclass(frozen=True)
class Scorer(Beside):
    """A network that gives each own token a number.

    Attributes:
        head: its shape.
        where: which state it reads of a token, see `autodidact.auxiliary.states`.

    Raises:
        ValueError: an unknown head.
    """

    head: HeadKind = "linear"
    where: Where = "before"

    def __post_init__(self):
        choose("head", self.head, get_args(HeadKind))

    def network(self, size: int) -> torch.nn.Module:
        return TokenHead(size, self.head)

    @torch.no_grad()
    def numbers(self, batch: Batch, models: Models) -> tuple[torch.Tensor, Values]:
        """The states that are read [B, T, D], and what the network says of them now [B, T]."""
        found = states(batch, models, self.role, self.where)
        network = models.trained(self.auxiliary).network
        return found, network(found) * batch.own

    def read(self, batch: Batch, models: Models) -> Batch:
        """With both as streams: `<name>_states`, and under the name of the network."""
        found, numbers = self.numbers(batch, models)
        return batch.put(**{f"{self.name}_states": found, self.name: numbers})


@dataclass(frozen=True)
class Critic(Scorer):
    """A value head: V_t, what the row will earn from a state on.

    L_V = scale max((V - G)^2, (clip(V, V_old - clip, V_old + clip) - G)^2), mean over the own
    tokens of rows that have a reward; G the stream `returns`, V_old the stream `value`.

    Attributes:
        clip: how far V may move from what it was when the batch was read; `None` for no bound.
    """

    clip: float | None = 0.5
    scale: float = 0.5

    @property
    def name(self) -> str:
        return "value"

    def loss(self, network: torch.nn.Module, batch: Batch) -> Values:
        value, goal = network(batch.take("value_states")), batch.take("returns")
        wrong = (value - goal) ** 2
        if self.clip is not None:
            old = batch.take("value")
            near = torch.clamp(value, old - self.clip, old + self.clip)
            wrong = torch.maximum(wrong, (near - goal) ** 2)
        return self.scale * wrong * batch.own

    def weigh(self, batch: Batch) -> Values:
        known = scored(batch)
        return known / total(known.sum()).clamp(min=1)

    def target(self, batch: Batch, advantage: Values, returns: Values) -> Batch:
        """Streams `advantage`, whitened over the tokens of rows that have a reward, and `returns`.

        Returns are A + V before the whitening.
        """
        return batch.put(advantage=whiten(advantage, scored(batch)), returns=returns)


@dataclass(frozen=True)
class TokenReward(Scorer):
    """A token reward model: sigmoid(mean_t s_t) says whether the row is right (2502.06781).

    L = BCE(sigmoid(mean_t s_t), R), mean over rows that have a reward, R cut to 0 to 1.
    """

    where: Where = "after"

    @property
    def name(self) -> str:
        return "token_reward"

    def loss(self, network: torch.nn.Module, batch: Batch) -> Float[torch.Tensor, "B"]:
        numbers = network(batch.take("token_reward_states")) * batch.own
        mean = numbers.sum(1) / batch.own.sum(1).clamp(min=1)
        goal = batch.take("reward").nan_to_num().clamp(0, 1).to(mean.dtype)
        return torch.nn.functional.binary_cross_entropy_with_logits(mean, goal, reduction="none")

    def weigh(self, batch: Batch) -> Float[torch.Tensor, "B"]:
        known = ~batch.take("reward").isnan()
        return known / total(known.sum()).clamp(min=1)


def scored(batch: Batch) -> Bool[torch.Tensor, "B T"]:
    """The own tokens of the rows that have a reward."""
    return batch.own & ~batch.take("reward").isnan()[:, None]


def token_rewards(batch: Batch, models: Models | None, kl: float) -> Values:
    """r_t = -kl (log p_old(y_t) - log p_initial(y_t)), and the reward at the last own token.

    Both laws are whole and at the temperature of the batch. The initial weights are read, and
    `models` needed, where `kl` is above 0.
    """
    found = at_end(batch.take("reward"), batch.own)
    if not kl:
        return found
    assert models is not None
    initial = models.score(plain(batch, "initial"), batch).logp
    return found + kl * k1_penalty(batch, batch.take("raw"), initial)


def belief(numbers: Values, own: Bool[torch.Tensor, "B T"]) -> Values:
    """c_t = sigmoid(mean_{k <= t} s_k) over own tokens, 0 elsewhere (2502.06781)."""
    mean = (numbers * own).cumsum(1) / own.cumsum(1).clamp(min=1)
    return mean.sigmoid() * own
