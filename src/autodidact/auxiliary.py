"""Small networks that are trained beside the policy: value heads, token reward models, flows.

Shapes: B rows, T columns, L layers, D hidden size. What such a network reads are the states of a
model, which it does not train. They are data, a stream [B, T, L * D] that a credit puts, and so
are its targets and weights: its gradient does not depend on how a batch is split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float

from autodidact import parallel
from autodidact.batch import Batch
from autodidact.view import plain, read_to

if TYPE_CHECKING:
    from autodidact.models import Models

Where = Literal["before", "after"]
"""Of which token a state knows last: the one before the token that it is a state of, or that."""


@dataclass(frozen=True)
class Auxiliary:
    """What a network beside the policy is, and how it learns.

    Attributes:
        name: its name among those of a method; its loss is logged as `loss_<name>`.
        network: makes it, given the size of a state; drawn under `seed`, whatever else is random.
        loss: (network, batch) -> a value per token [B, T] or row [B], of streams that `credit`
            has put.
        weigh: what each value counts in the sum.
        lr: learning rate of its own AdamW.
    """

    name: str
    network: Callable[[int], torch.nn.Module]
    loss: Callable[[torch.nn.Module, Batch], Float[torch.Tensor, "..."]]
    weigh: Callable[[Batch], Float[torch.Tensor, "..."]]
    lr: float = 1e-3
    seed: int = 0


@dataclass
class Trained:
    """A network and its optimizer: what a checkpoint holds of it.

    Attributes:
        updates: made so far.
    """

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer = field(repr=False)
    updates: int = 0

    @classmethod
    def of(cls, auxiliary: Auxiliary, models: Models) -> Trained:
        weight = models.policy.base.get_output_embeddings().weight
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(auxiliary.seed)
            network = auxiliary.network(weight.shape[1])
        # Float32 at least, as the policy's own trained weights.
        network.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        return cls(network, torch.optim.AdamW(network.parameters(), lr=auxiliary.lr))

    def backward(
        self, auxiliary: Auxiliary, pieces: Sequence[Batch], clip: float
    ) -> tuple[float, float]:
        """Lay the gradient of a batch at the weights, with `weight_<name>` among its streams.

        Returns the loss and the norm of the gradient before it was clipped, over all ranks.
        """
        whole = self._backward(auxiliary, pieces)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), clip or torch.inf)
        return whole, float(norm)

    def step(self) -> None:
        """One update by the gradient that lies at the weights."""
        self.optimizer.step()
        self.updates += 1

    def forget(self) -> None:
        """Take the gradient from the weights."""
        self.optimizer.zero_grad(set_to_none=True)

    def gradient(self, auxiliary: Auxiliary, pieces: Sequence[Batch]) -> list[torch.Tensor]:
        """The gradient that an update would use, not clipped; nothing is updated."""
        self._backward(auxiliary, pieces)
        found = [p.grad for p in self.network.parameters() if p.grad is not None]
        self.forget()
        return found

    def _backward(self, auxiliary: Auxiliary, pieces: Sequence[Batch]) -> float:
        whole = 0.0
        for piece in pieces:
            values = auxiliary.loss(self.network, piece)
            weight = piece.take(f"weight_{auxiliary.name}")
            assert values.shape == weight.shape, "weights fit the loss values"
            loss = (values * weight).sum()
            loss.backward()
            whole += float(loss.detach())
        parallel.sum_gradients(list(self.network.parameters()))
        return parallel.sum_numbers(whole)


@torch.no_grad()
def states(
    batch: Batch,
    models: Models,
    role: str = "initial",
    where: Where = "before",
    depths: Sequence[float] = (1.0,),
) -> Float[torch.Tensor, "B T LD"]:
    """Hidden states of a role at the own tokens, 0 elsewhere; read once, without gradient.

    Args:
        where: "before", the state from which the token is drawn: a value of it is a baseline;
            "after", the state that has read the token.
        depths: shares of the layers, 1 for the last; several are laid side by side.
    """
    view = plain(batch, role, grad=False) if where == "before" else read_to(batch, role)
    if tuple(depths) == (1.0,):
        found = models.score(view, batch).hidden
    else:
        found = models.depths(view, depths).flatten(1)
    whole = found.new_zeros(*batch.ids.shape, found.shape[1])
    whole[view.asked] = found
    return whole
