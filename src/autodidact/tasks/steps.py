"""Which steps of a worked calculation are wrong, by arithmetic alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from autodidact.problem import Problem
from autodidact.tasks.arithmetic import value

_RUN = re.compile(r"[0-9+\-*/^(). =\u00d7\u00b7\u00f7\u2212]+")
"""What may hold an equation, or several that are chained: `3*4+1=12+1=13`."""


def wrong(problem: Problem, steps: Sequence[str]) -> list[int]:
    """The numbers, from 0 on, of the steps with an equation whose sides differ.

    Each equation is checked exactly, by the bounded parser of `arithmetic`; sides that it cannot
    read say nothing. A step that is true but leads nowhere is not found.
    """
    return [number for number, step in enumerate(steps) if any(map(_differ, _RUN.findall(step)))]


def _differ(run: str) -> bool:
    sides = [_value(side) for side in run.split("=")]
    return any(None not in pair and pair[0] != pair[1] for pair in pairwise(sides))


def _value(text: str) -> Fraction | None:
    try:
        return value(text.strip().removesuffix("."))
    except ValueError:
        return None
