"""Models whose weights one process has, in its own memory, until each gets its share of them.

A model that is more than a GPU is never whole on one: the first process reads it into the memory
of its machine, and sends the others its skeleton, modules with weights that have a shape and no
numbers. When it is spread, see `sharding`, the first one deals out the numbers, tensor by tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autodidact import parallel

if TYPE_CHECKING:
    from autodidact.model import LM


def skeletons(roles: Mapping[str, LM]) -> dict[str, LM]:
    """The same roles without numbers; those that share a model share its skeleton."""
    known: dict[int, Any] = {}
    for lm in roles.values():
        if id(lm.model) not in known:
            known[id(lm.model)] = copy.deepcopy(lm.model, _empty(lm.model))
    return {role: replace(lm, model=known[id(lm.model)]) for role, lm in roles.items()}


def taken(model: nn.Module) -> dict[str, torch.Tensor]:
    """Take the weights out of a model, which becomes a skeleton. Returns them by name."""
    values = {name: weight.data for name, weight in model.named_parameters()}
    empty = _empty(model)
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = empty[id(weight)]
    return values


def _empty(model: nn.Module) -> dict[int, nn.Parameter]:
    return {
        id(weight): nn.Parameter(torch.empty_like(weight, device="meta"), weight.requires_grad)
        for weight in model.parameters()
    }


# ------------------------------------------------------------------ numbers for weights


def is_share(weight: torch.Tensor) -> bool:
    """Whether this rank holds a share of it."""
    return hasattr(weight, "full_tensor")


@torch.no_grad()
def deal(model: nn.Module, values: dict[str, torch.Tensor], device: torch.device) -> None:
    """Give the weights of a skeleton, or this rank's shares of them, their numbers.

    Args:
        values: by name, those of the first rank; emptied. Of others nothing is asked.
    """
    for name, weight in model.named_parameters():
        if parallel.leads():
            value = values.pop(name).to(device)
        else:
            value = torch.empty(weight.shape, dtype=weight.dtype, device=device)
        if not is_share(weight):
            torch.distributed.broadcast(value, 0)
        # In its place, so that no second tensor is whole when the next one comes.
        value = spread_like(value, weight, source=0)
        weight.copy_(value)


@torch.no_grad()
def fill(parameter: torch.Tensor, value: torch.Tensor) -> None:
    """Put all of a value into a weight, of which this rank may hold a share."""
    parameter.copy_(spread_like(value, parameter))


def spread_like(
    value: torch.Tensor, other: torch.Tensor, source: int | None = None
) -> torch.Tensor:
    """The value, spread as another tensor of its shape is.

    Args:
        source: the rank whose value it is; by default every rank has all of it before.
    """
    if not is_share(other) or value.shape != other.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    there = value.to(other.device)
    return distribute_tensor(there, other.device_mesh, other.placements, src_data_rank=source)
