"""Sums over all processes of a run. With one process they are the values themselves."""

from __future__ import annotations

import torch


def total(value: torch.Tensor) -> torch.Tensor:
    """The sum of a value over all ranks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value.clone()
        torch.distributed.all_reduce(value)
    return value
