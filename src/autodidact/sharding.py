"""Weights that are spread over all processes of a run, a share of each on each (FSDP2).

At rest every rank holds its share of each weight, of its gradient and of the optimizer's state. A
layer's weights are gathered when it is read and given back after. Gradients are summed.

Drawing and evaluating read the policy again for every token, and no two ranks draw as many. So its
weights are gathered for as long as that takes (`gather="all"`); or, where a GPU has no room for
them, only those of embeddings and heads, and layers when they are read, for every token, in step
("layers"). Other roles' layers are read in step in any case.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from autodidact import parallel
from autodidact.head import whole
from autodidact.lockstep import TOTAL, Lockstep
from autodidact.model import LM
from autodidact.skeleton import deal, is_share, taken
from autodidact.trunk import layers

if TYPE_CHECKING:
    from autodidact.spec import Gather

STATES, READ, LEARN = range(3)
"""How a model may be read: its layers only, with its head, with gradient."""

_SHARES: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""See `of_shares`."""


class Sharded:
    """The models of a run, spread over its ranks.

    Args:
        models: by role, the same on all ranks. Roles that share their weights share them still.
        gather: what every rank has of the policy while it draws, all weights or layer by layer.
        device: where the shares are to lie, of models that only the first rank has, see `skeleton`;
            without it every rank has them whole, where its shares will be.

    Raises:
        ValueError: a model whose layers cannot be told.
    """

    def __init__(self, models: Mapping[str, LM], gather: Gather = "all", device: str | None = None):
        self.roles, self.gather, self.open = list(models), gather, False
        self.models = list(models.values())
        # It warns of writes into outputs that are views; nothing here writes into an output.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
        self.own = list({id(lm.model): lm for lm in self.models}.values())
        self.tied = [lm for lm in self.own if _head(lm).weight is _words(lm).weight]
        for lm in self.own:
            if device is None:
                _spread(lm, lm in self.tied, lm.device)
            else:
                self._deal(lm, torch.device(device))
        self._tie()
        # Tried out where the weights are now, and once, while all ranks read the same.
        for lm in self.models:
            lm._obstacles.clear()
        for lm in self.models:
            lm.packs  # noqa: B018
        self.lockstep, self.standing = Lockstep(self._stand_in), False
        parallel.before_totals(lambda: self.lockstep.until(TOTAL))

    def _deal(self, lm: LM, device: torch.device) -> None:
        values = taken(lm.base)
        _spread(lm, lm in self.tied, device)
        self._tie()
        lm.base._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t.to(device))
        self._tie()
        deal(lm.base, values, device)

    def ready(self, role: str, how: int) -> None:
        """Return when all ranks read that role in that way."""
        if not self.open:
            self.lockstep.until(3 * self.roles.index(role) + how)

    def _stand_in(self, number: int) -> list[torch.Tensor]:
        """Read one token, as a rank does that has no row to read."""
        place, how = divmod(number, 3)
        lm = self.models[place]
        ids = torch.zeros(1, 1, dtype=torch.long, device=lm.device)
        self.standing = True
        with torch.set_grad_enabled(how == LEARN):
            output = lm.hidden(ids, ids == 0, use_cache=False).last_hidden_state
            found = [output] if how == STATES else [output, lm.head().weight]
        self.standing = False
        return found

    @contextmanager
    def opened(self) -> Iterator[None]:
        """While this is open every rank reads as it likes, other ranks than it or not."""
        if self.open:
            yield
            return
        self.lockstep.finish()
        for lm in self.own:
            _SHARES[lm.base] = hash(tuple(map(_written, lm.base.parameters())))
        policy = self.models[self.roles.index("policy")]
        parts = [part for lm in self.own for part in _parts(lm) if not _is_layer(lm, part)]
        if self.gather == "all":
            parts += [part for part in _parts(policy) if _is_layer(policy, part)]
        for part in parts:
            part.unshard()
            part.set_reshard_after_forward(False, recurse=False)
        self._tie()
        # Gathering leaves no trace, by which copies of the weights are known to be old.
        gathered_now = (p for lm in self.own for p in lm.base.parameters() if not is_share(p))
        torch.autograd.graph.increment_version(list(gathered_now))
        apart = [lm for lm in self.own if self.gather != "all" or lm.model is not policy.model]
        self.open, self.lockstep.open = True, not apart
        try:
            with ExitStack() as hooks:
                for lm in apart:
                    hooks.enter_context(self._in_step(lm))
                try:
                    yield
                finally:
                    self.lockstep.finish()
        finally:
            # What was read last tells FSDP2 what to gather ahead: it must be the same on all ranks.
            for number in range(len(self.models)):
                self._stand_in(3 * number + STATES)
            for part in parts:
                part.set_reshard_after_forward(True, recurse=False)
                part.reshard()
            self._tie()
            self.open = self.lockstep.open = False

    @contextmanager
    def _in_step(self, lm: LM) -> Iterator[None]:
        """While this is open all ranks read the layers of a model whenever one does."""
        number = 3 * next(i for i, each in enumerate(self.models) if each.model is lm.model)

        def wait(*given: Any) -> None:
            if not self.standing:
                self.lockstep.until(number + STATES)

        # Before FSDP2's own, which gathers.
        hook = lm.base.base_model.register_forward_pre_hook(wait, prepend=True)
        try:
            yield
        finally:
            hook.remove()

    def _tie(self) -> None:
        """Give heads the input embeddings' weights of now, where they share them."""
        for lm in self.tied:
            _head(lm).weight = _words(lm).weight


def _spread(lm: LM, tied: bool, device: torch.device) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (parallel.ranks(),))
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


def of_shares(lm: LM) -> int | None:
    """A number that changes when this rank's shares of a model are written to, not when they are
    gathered: as it was when drawing began. `None` for a model that is not spread."""
    return _SHARES.get(lm.base)


def _written(share: torch.Tensor) -> tuple[int, ...]:
    inner = getattr(share, "_local_tensor", share)
    return id(share), share._version, inner._version


def _is_layer(lm: LM, part: Any) -> bool:
    return any(part is layer for layer in layers(lm.base.base_model))


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
            if is_share(found):
                found = whole(found)
                found = found.cpu() if parallel.leads() else found.new_empty(0)
            known[id(value)] = found
    return {name: known[id(value)] for name, value in tensors.items()}
