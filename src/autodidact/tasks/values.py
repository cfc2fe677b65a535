"""Values of user data: what a row may hold, and the text of a column."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from math import isfinite
from typing import Any

LONGEST = 16_000_000
"""Most bytes of a row, and characters of a text in it: above what any context holds."""
DEPTH = 64
"""Deepest nesting of lists and objects in a row."""
NAMES = 12
"""Columns that a message names."""
_HALF = re.compile("[\ud800-\udfff]")


def fault_of(values: dict[str, Any]) -> str | None:
    """What no row may hold, in words: half a character, a giant text, very deep nesting."""
    for name, value in values.items():
        if fault := _fault(value, 0):
            return f"column {short(str(name))} holds {fault}"
        if _HALF.search(str(name)):
            return f"column {short(name)} is named with half a surrogate pair"
    return None


def _fault(value: Any, depth: int) -> str | None:
    if isinstance(value, str):
        if len(value) > LONGEST:
            return f"{len(value)} characters; at most {LONGEST} are read"
        return "half a surrogate pair; allowed: Unicode text" if _HALF.search(value) else None
    if not isinstance(value, dict | list):
        return None
    if depth == DEPTH:
        return f"lists or objects nested deeper than {DEPTH}"
    inside = [*value, *value.values()] if isinstance(value, dict) else value
    return next((fault for each in inside if (fault := _fault(each, depth + 1))), None)


def named(names: Iterable[Any]) -> str:
    """Names of columns as a message lists them."""
    shown = [str(name) for name in names]
    shown = [name if name.isprintable() and len(name) <= 60 else short(name) for name in shown]
    return ", ".join([*shown[:NAMES], *(["..."] if len(shown) > NAMES else [])]) or "none"


def as_text(values: dict[str, Any], column: str, numbers: bool = False) -> str | None:
    """The text in a column, `None` where it has none; with `numbers`, a number is text too.

    Raises:
        ValueError: it is of another type, NaN or infinite, or half a character.
    """
    found = values.get(column)
    if numbers and isinstance(found, int | float | Decimal) and not isinstance(found, bool):
        if not isfinite(found):
            raise ValueError(f"column {column!r} holds {found}; allowed: text or a finite number")
        return format(Decimal(str(found)), "f")  # never 1e+16
    if found is not None and not isinstance(found, str):
        allowed = "text or a number" if numbers else "text"
        raise ValueError(
            f"column {column!r} holds a {type(found).__name__} ({short(str(found))}); "
            f"allowed: {allowed}"
        )
    if found is not None and re.search("[\ud800-\udfff]", found):
        raise ValueError(f"column {column!r} holds half a surrogate pair; allowed: Unicode text")
    return found


def short(text: str) -> str:
    """The beginning of a text as Python writes it, so that nothing in it steers a terminal."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
