"""Help for a mistyped name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(given: str, allowed: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the allowed name nearest to the given one, or `""`."""
    match = get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def choose(kind: str, given: str, allowed: Iterable[str]) -> str:
    """`given` if it is allowed; else a `ValueError` that names the choices and the nearest."""
    allowed = list(allowed)
    if given not in allowed:
        raise ValueError(
            f"{kind} {given!r} is unknown; allowed: {', '.join(allowed)}" + nearest(given, allowed)
        )
    return given


def at_least_one(**given: int) -> None:
    """`ValueError` for a number below 1."""
    for name, value in given.items():
        if value < 1:
            raise ValueError(f"{name}={value} is not allowed: it must be at least 1")
