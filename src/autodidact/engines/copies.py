"""Weights in the form that single tokens are read with.

Shapes: B rows, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.linalg import vector_norm
from torch.nn.functional import linear, rms_norm

from autodidact.head import Head
from autodidact.model import LM

COPIED = 512 * 2**20
"""Bytes of weights up to which those of a model are copied into matrices that suit single tokens:
projections of one input side by side, norms inside them, columns in one piece. It saves operations,
and a CPU reads such columns about twice as fast."""


def unit(x: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) along the last dimension."""
    size = x.shape[-1]
    if x.dtype == torch.bfloat16 or x.is_cuda:
        return rms_norm(x, (size,), None, eps)
    # On a CPU torch's own is ten operations.
    length = vector_norm(x, dim=-1, keepdim=True)
    return x * torch.addcmul(x.new_tensor(eps), length, length, value=1 / size).rsqrt_()


def after(
    norm: Any, parts: Sequence[nn.Module], copy: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Several projections of one input, which is normalised first where there is a norm.

    Args:
        copy: over a copy of the weights, where all parts are plain; else they are read live.
    """
    plain = [part for part in parts if type(part) is nn.Linear]
    biases = [part.bias.detach() for part in plain if part.bias is not None]
    if not copy or len(plain) < len(parts) or len(biases) not in (0, len(parts)):

        def live(x: torch.Tensor) -> torch.Tensor:
            if norm is not None:
                x = rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)
            return torch.cat([part(x) for part in parts], -1) if len(parts) > 1 else parts[0](x)

        return live
    weight = torch.cat([part.weight.detach() for part in plain])
    bias = torch.cat(biases) if biases else None
    if norm is None:
        weight = in_columns(weight)
        return lambda x: linear(x, weight, bias)
    weight, eps = in_columns(weight * norm.weight.detach()), norm.variance_epsilon
    return lambda x: linear(unit(x, eps), weight, bias)


def in_columns(weight: torch.Tensor) -> torch.Tensor:
    """The same matrix, stored column by column."""
    return weight.t().contiguous().t()


_COPIES: WeakKeyDictionary[Any, tuple[list[int], Any]] = WeakKeyDictionary()


def copied(module: Any, make: Callable[[], Any]) -> Any:
    """What `make` copies of the weights of a module; made anew when these have changed."""
    # The version of a tensor counts what is written into it.
    now = [number for w in module.parameters() for number in (w._version, w.data_ptr())]
    before, copies = _COPIES.get(module, ([], None))
    if before != now:
        copies = make()
        _COPIES[module] = now, copies
    return copies


def small(module: nn.Module) -> bool:
    """Whether the weights of a module are few enough to be copied."""
    return sum(weight.nbytes for weight in module.parameters()) <= COPIED


def fast_head(lm: LM) -> Head:
    """The output head, for few tokens at a time."""
    head, layer = lm.head(), lm.base.get_output_embeddings()
    if head.weight.is_cuda or not small(layer):
        return head
    return replace(head, weight=copied(layer, lambda: in_columns(head.weight.detach())))
