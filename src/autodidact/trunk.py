"""The layers of a trunk: what they hand on, and how a backward pass may do without it.

Shapes: R x S the rows and columns that are read, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from torch.utils.checkpoint import checkpoint


def layers(trunk: Any) -> nn.ModuleList:
    """The layers of a trunk; `ValueError` where they cannot be told."""
    count = trunk.config.get_text_config().num_hidden_layers
    for module in trunk.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(trunk).__name__} has no list of {count} layers")


@contextmanager
def heard(trunk: Any, places: set[int]) -> Iterator[dict[int, Float[torch.Tensor, "R S D"]]]:
    """Gather what some layers are given while this is open: layer k reads what k - 1 gave.

    Models keep such states by the name of their class, which spreading over processes changes.
    """
    found: dict[int, torch.Tensor] = {}

    def note(place: int, module: nn.Module, args: tuple, options: dict[str, Any]) -> None:
        found[place] = args[0] if args else options["hidden_states"]

    with ExitStack() as stack:
        for place, layer in enumerate(layers(trunk)):
            if place in places:
                hook = layer.register_forward_pre_hook(partial(note, place), with_kwargs=True)
                stack.callback(hook.remove)
        yield found


@contextmanager
def recomputed(trunk: Any, again: Callable[[], AbstractContextManager]) -> Iterator[None]:
    """Activation checkpointing: passes made while this is open keep the states between layers only.

    The backward pass reads each layer once more: about a third more work, and memory for the
    activations of one layer in place of all.

    Args:
        again: opens what a layer needs around it when it is read once more.
    """
    own = list(layers(trunk))
    contexts = lambda: (nullcontext(), again())  # noqa: E731
    for layer in own:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, context_fn=contexts)
    try:
        yield
    finally:
        for layer in own:
            del layer.forward
