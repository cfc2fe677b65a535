"""Weights that are spread over all processes of a run, a share of each on each (FSDP2).

At rest every rank holds its share of each weight, of its gradient and of the optimizer's state. A
layer's weights are gathered when it is read and given back after. Gradients are summed. To draw,
and to evaluate, they are gathered as long as that takes: drawing reads them again for every token,
and no two ranks draw as many.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from autodidact import parallel
from autodidact.head import whole
from autodidact.lockstep import TOTAL, Lockstep
from autodidact.model import LM
from autodidact.trunk import layers

STATES, READ, LEARN = range(3)
"""How a model may be read: its layers only, with its head, with gradient."""


class Sharded:
    """The models of a run, spread over its ranks.

    Args:
        models: by role, the same on all ranks. Roles that share their weights share them still.

    Raises:
        ValueError: a model whose layers cannot be told.
    """

    def __init__(self, models: Mapping[str, LM]):
        self.roles = list(models)
        self.models = list(models.values())
        for lm in self.models:
            lm.packs  # noqa: B018  tried out once, while the weights are whole
        # It warns of writes into outputs that are views; nothing here writes into an output.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
        self.own = list({id(lm.model): lm for lm in self.models}.values())
        self.tied = [lm for lm in self.own if _head(lm).weight is _words(lm).weight]
        for lm in self.own:
            _spread(lm, lm in self.tied)
        self._tie()
        self.lockstep = Lockstep(self._stand_in)
        parallel.before_totals(lambda: self.lockstep.until(TOTAL))

    def ready(self, role: str, how: int) -> None:
        """Return when all ranks read that role in that way."""
        self.lockstep.until(3 * self.roles.index(role) + how)

    def _stand_in(self, number: int) -> list[torch.Tensor]:
        """Read one token, as a rank does that has no row to read."""
        place, how = divmod(number, 3)
        lm = self.models[place]
        ids = torch.zeros(1, 1, dtype=torch.long, device=lm.device)
        with torch.set_grad_enabled(how == LEARN):
            output = lm.hidden(ids, ids == 0, use_cache=False).last_hidden_state
            return [output] if how == STATES else [output, lm.head().weight]

    @contextmanager
    def opened(self) -> Iterator[None]:
        """While this is open every rank has all weights, and reads as it likes."""
        if self.lockstep.open:
            yield
            return
        self.lockstep.finish()
        parts = [part for lm in self.own for part in _parts(lm)]
        for part in parts:
            part.unshard()
            part.set_reshard_after_forward(False, recurse=False)
        self._tie()
        # Gathering leaves no trace, by which copies of the weights are known to be old.
        torch.autograd.graph.increment_version([p for lm in self.own for p in lm.base.parameters()])
        self.lockstep.open = True
        try:
            yield
        finally:
            # What was read last tells FSDP2 what to gather ahead: it must be the same on all ranks.
            for number in range(len(self.models)):
                self._stand_in(3 * number + STATES)
            for part in parts:
                part.set_reshard_after_forward(True, recurse=False)
                part.reshard()
            self._tie()
            self.lockstep.open = False

    def _tie(self) -> None:
        """Give heads the input embeddings' weights of now, where they share them."""
        for lm in self.tied:
            _head(lm).weight = _words(lm).weight


def _spread(lm: LM, tied: bool) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(lm.device.type, (parallel.ranks(),))
    trunk, precision = lm.base.base_model, MixedPrecisionPolicy()
    if lm.autocast:
        # What is gathered is what autocast multiplies by. Inputs stay as they are, so that the
        # states between layers have the precision that they have in one process.
        precision = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for layer in layers(trunk):
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    for module in (trunk, *([] if tied else [_head(lm)])):
        fully_shard(module, mesh=mesh)
    for part in _parts(lm):
        part.set_gradient_divide_factor(1.0)  # sums, no means
        part.set_force_sum_reduction_for_comms(True)  # gloo has no other
        part.set_reshard_after_forward(True, recurse=False)


def _head(lm: LM) -> Any:
    return lm.base.get_output_embeddings()


def _words(lm: LM) -> Any:
    return lm.base.get_input_embeddings()


def _parts(lm: LM) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in lm.base.modules() if isinstance(module, FSDPModule)]


# ------------------------------------------------------------------ to and from files


def gathered(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same, with all of each that is spread, on the first rank; such are empty on others.

    Names of one weight share one tensor.
    """
    known: dict[int, torch.Tensor] = {}
    for value in tensors.values():
        if id(value) not in known:
            found = value.detach()
            if hasattr(found, "full_tensor"):
                found = whole(found)
                found = found.cpu() if parallel.leads() else found.new_empty(0)
            known[id(value)] = found
    return {name: known[id(value)] for name, value in tensors.items()}


@torch.no_grad()
def fill(parameter: torch.Tensor, value: torch.Tensor) -> None:
    """Put all of a value into a weight, of which this rank may hold a share."""
    parameter.copy_(spread_like(value, parameter))


def spread_like(value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The value, spread as another tensor of its shape is; every rank has all of it before."""
    if not hasattr(other, "full_tensor") or value.shape != other.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    there = value.to(other.device)
    return distribute_tensor(there, other.device_mesh, other.placements, src_data_rank=None)
