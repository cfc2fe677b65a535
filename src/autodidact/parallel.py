"""Several processes, one run: each draws and learns from its share of the problems of a step.

With one process every sum is the value itself, and every share the whole. torch.distributed does
the talking: gloo between CPUs, nccl between GPUs. A batch is shared out by problems, so that the
rows of a group stay together; its weights are made from totals over all ranks, and gradients are
summed, never averaged: the number of ranks cannot change a denominator.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others; a rollout or a checkpoint of one may take its time."""

BUCKET = 2**24
"""Numbers of gradients that are summed in one message."""

_TOGETHER: ContextVar[Any] = ContextVar("together", default="all")
"""Who takes part in totals: "all" ranks, "none" but this one, or a process group."""

_WAIT: list[Callable[[], None]] = []
"""What is called before a total, where ranks must act in step."""


def start(device: str | None = None) -> None:
    """Join the processes that `torchrun` started, if it did and this one has not joined yet.

    Args:
        device: "cpu" keeps to gloo where there are GPUs.

    Raises:
        ValueError: more processes on a machine than it has GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or ranks() > 1:
        return
    cuda = torch.cuda.is_available() and device != "cpu"
    if cuda:
        place, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= there:
            raise ValueError(
                f"process {place} of this machine has no GPU of its own: there are {there}; start "
                f"at most {there} processes, or say device='cpu'"
            )
        torch.cuda.set_device(place)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    torch.distributed.init_process_group(backend, timeout=PATIENCE)
    atexit.register(stop)


def stop() -> None:
    """Leave the other processes."""
    if ranks() > 1:
        torch.distributed.destroy_process_group()


def ranks() -> int:
    """How many processes make this run."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1


def rank() -> int:
    return torch.distributed.get_rank() if ranks() > 1 else 0


def leads() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def total(value: torch.Tensor) -> torch.Tensor:
    """The sum of a value over all ranks that take part, see `present`."""
    group = _group()
    if group is None:
        return value
    for wait in _WAIT:
        wait()
    value = value.clone()
    torch.distributed.all_reduce(value, group=None if group == "all" else group)
    return value


def sum_numbers(value: float) -> float:
    """The sum of a number over all ranks that take part."""
    return float(total(torch.tensor(value, dtype=torch.float64)))


def before_totals(wait: Callable[[], None] | None) -> None:
    """Have this called before each total, and nothing else: see `lockstep`."""
    _WAIT[:] = [] if wait is None else [wait]


def taking_part() -> tuple[int, int]:
    """How many ranks take part in totals, and the place of this one among them."""
    group = _group()
    if group is None:
        return 1, 0
    within = None if group == "all" else group
    return torch.distributed.get_world_size(within), torch.distributed.get_rank(within)


def _group() -> Any:
    """Who takes part, `None` for this rank alone."""
    group = _TOGETHER.get()
    return None if ranks() == 1 or group == "none" else group


def everywhere(value: T) -> list[T]:
    """The values that all ranks have, in their order. Pickled between processes of one run."""
    if _group() is None:
        return [value]
    found: list[Any] = [None] * ranks()
    torch.distributed.all_gather_object(found, value)
    return found


def first(work: Callable[[], T]) -> T:
    """What the first rank's work returns, for all; what users can mend and it raises, all raise."""
    answer: Any = None
    if leads():
        try:
            answer = (True, work())
        except (ValueError, OSError) as error:
            if ranks() == 1:
                raise
            answer = (False, error)
    done, found = everywhere(answer)[0]
    if not done:
        raise found
    return found


def share(values: Sequence[T]) -> Sequence[T]:
    """The part of a sequence that is this rank's; shares differ by one at most."""
    count, here = (ranks(), rank()) if _group() is not None else (1, 0)
    return values[here * len(values) // count : (here + 1) * len(values) // count]


@contextmanager
def alone() -> Iterator[None]:
    """While this is open, this rank talks to no other."""
    before = _TOGETHER.set("none")
    try:
        yield
    finally:
        _TOGETHER.reset(before)


@contextmanager
def present(here: bool) -> Iterator[None]:
    """While this is open, totals are those of the ranks that are here; all ranks must call it.

    A rank without a row to learn from sits out: a method need not know what to do with no row.
    """
    if _group() is None:
        yield
        return
    known = everywhere(here)
    if all(known):
        yield
        return
    members = tuple(i for i, each in enumerate(known) if each)
    group = _some(members) if members else "none"
    before = _TOGETHER.set(group if here else "none")
    try:
        yield
    finally:
        _TOGETHER.reset(before)


@cache
def _some(members: tuple[int, ...]) -> Any:
    """The group of some ranks. Every rank makes it, those outside of it as well."""
    return torch.distributed.new_group(list(members))


def sum_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Each gradient becomes the sum over all ranks, the same to the last bit on each.

    A weight without a gradient on one rank counts as 0 there; without one on any it keeps none.
    Weights that are sharded have summed theirs in the backward pass.
    """
    plain = [p for p in parameters if not hasattr(p, "full_tensor")]
    if _group() is None or not plain:
        return
    device = plain[0].device
    any_of_them = total(torch.tensor([p.grad is not None for p in plain], device=device).int())
    asked = [p for p, there in zip(plain, any_of_them.tolist(), strict=True) if there]
    for some in _buckets(asked):
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in some]
        )
        summed = total(flat).split([p.numel() for p in some])
        for p, value in zip(some, summed, strict=True):
            p.grad = value.view_as(p)


def _buckets(parameters: Sequence[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """Weights of one type whose gradients fit one message."""
    held: list[torch.nn.Parameter] = []
    for each in parameters:
        full = sum(p.numel() for p in held) + each.numel() > BUCKET
        if held and (full or each.dtype != held[0].dtype):
            yield held
            held = []
        held.append(each)
    if held:
        yield held
