"""Numbers that JSON does not have: NaN and the infinities, written as strings and read back.

`json.dumps` writes the bare words NaN and Infinity, which strict parsers refuse. In our files they
are the strings "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def word(value: float) -> str:
    """What a number that is not finite is called."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def strict(content: Any) -> Any:
    """The content with a string for every number that is not finite."""
    if isinstance(content, float):
        return content if math.isfinite(content) else word(content)
    if isinstance(content, Mapping):
        return {key: strict(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [strict(value) for value in content]
    return content


def numbers(content: Mapping[str, Any]) -> dict[str, Any]:
    """A line that was written by `strict`, with its numbers back; lists stay as they are."""
    return {
        key: numbers(value)
        if isinstance(value, Mapping)
        else WORDS.get(value, value)
        if isinstance(value, str)
        else value
        for key, value in content.items()
    }
