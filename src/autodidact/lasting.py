"""What roles are called whose weights are made of those that the policy had on the way."""

from __future__ import annotations

DECAY = 0.999
LASTING = ("ema", "copy")
"""Their kinds, before the colon of a role."""


def decay(argument: str) -> float:
    """The decay written after "ema:"; `ValueError` unless it lies in [0, 1)."""
    try:
        value = float(argument) if argument else DECAY
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise ValueError(f"role 'ema:{argument}': the decay must be a number from 0 to below 1")
    return value


def interval(argument: str) -> int:
    """The number of updates written after "copy:"; `ValueError` unless it is at least 1."""
    if not argument.isdigit() or int(argument) < 1:
        raise ValueError(f"role 'copy:{argument}': give the updates between copies, as in copy:100")
    return int(argument)
