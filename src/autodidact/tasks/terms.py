"""Users' reward functions as this process knows them, and the processes that run them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Literal

from autodidact.tasks.limits import Limits
from autodidact.tasks.worker import Worker, WorkerError

Form = Literal["auto", "text", "messages"]

START = 300.0
"""Seconds that loading a function may take."""
GRACE = 1.0
"""Seconds beyond the wall limit in which a process says where it stands, and ends itself."""
KEPT = 4
"""Processes that are kept, for different folders and limits."""
_WORKERS: dict[tuple, Worker] = {}


@dataclass(frozen=True)
class Term:
    """One user function: its import path, its weight, whether it reads messages, the arguments
    that it takes (all if `None`), those that it needs, and the file that it stands in (`None` if
    that cannot be told)."""

    name: str
    weight: float
    messages: bool
    wanted: frozenset[str] | None
    required: tuple[str, ...]
    file: str | None

    def takes(self, name: str) -> bool:
        return self.wanted is None or name in self.wanted


def worker_for(limits: Limits) -> Worker:
    """The process for the current folder and these limits, the same one for all rewards."""
    key = (os.getcwd(), limits.env, limits.memory)
    if key not in _WORKERS:
        while len(_WORKERS) >= KEPT:
            _WORKERS.pop(next(iter(_WORKERS))).stop()  # who still needs it starts it again
        module = "autodidact.tasks.reward_calls"
        _WORKERS[key] = Worker(module, env=limits.environment, start=START, grace=GRACE)
    return _WORKERS[key]


def term_of(spec: str, form: Form, worker: Worker, limits: Limits) -> Term:
    """The function at an import path, perhaps with a weight: `a.py:f=0.7`.

    Raises:
        ValueError: nothing there, a weight that is no number, or arguments that are not passed.
    """
    _, equals, weight = spec.rpartition(":")[2].partition("=")
    name = spec.removesuffix(equals + weight)
    try:
        factor = float(weight) if equals else 1.0
    except ValueError:
        factor = math.nan
    if not math.isfinite(factor):
        raise ValueError(f"weight {weight!r} in reward {spec!r}; allowed: a finite number")
    request = {"load": {"name": name, "memory": limits.bytes}}
    try:
        found = worker.ask(request, START)
    except WorkerError as error:
        raise ValueError(f"loading {name} {error.reason}: {error.said.strip()[-200:]}") from error
    if "fault" in found:
        raise ValueError(found["fault"])
    if request not in worker.prelude:
        worker.prelude.append(request)
    messages = found["messages"] if form == "auto" else form == "messages"
    wanted = None if found["wanted"] is None else frozenset(found["wanted"])
    return Term(name, factor, messages, wanted, tuple(found["required"]), found["file"])
