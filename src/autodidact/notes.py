"""What a reward says beside its numbers, for the line of the step in which it was asked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Notes:
    """Of the calls made while they were open, in this thread.

    Attributes:
        unscored: scores that were missing, by reason.
        logged: numbers by name, the latest of each.
    """

    unscored: Counter[str] = field(default_factory=Counter)
    logged: dict[str, float] = field(default_factory=dict)


_OPEN: ContextVar[Notes | None] = ContextVar("notes", default=None)


@contextmanager
def noted() -> Iterator[Notes]:
    """While this is open, what rewards say is kept."""
    found = Notes()
    before = _OPEN.set(found)
    try:
        yield found
    finally:
        _OPEN.reset(before)


def unscored(reason: str) -> None:
    """A score is missing."""
    if (notes := _OPEN.get()) is not None:
        notes.unscored[reason] += 1


def log(metrics: Mapping[str, float]) -> None:
    """Numbers that a reward wants to see in the log."""
    if (notes := _OPEN.get()) is not None:
        notes.logged.update(metrics)


def described(parts: Sequence[Notes]) -> dict[str, Any]:
    """What several ranks noted, where there is any: `unscored`, summed, and `logged`, means."""
    missing = sum((part.unscored for part in parts), Counter())
    names = dict.fromkeys(name for part in parts for name in part.logged)
    values = {name: [part.logged[name] for part in parts if name in part.logged] for name in names}
    means = {name: math.fsum(each) / len(each) for name, each in values.items()}
    found = {"unscored": dict(missing), "logged": means}
    return {name: value for name, value in found.items() if value}
