"""Verifiers: is a completion right?

A verifier is a function `(problem, completion) -> bool`: `numeric`, `exact`, `mathematics`. The
answer is found by the rules of `answers`. None executes model text, and none can hang: numbers go
through the bounded parser of `arithmetic`, and math-verify runs in a process that is killed at a
wall limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from autodidact.names import choose
from autodidact.problem import Problem
from autodidact.tasks.answers import (
    LIMIT,
    answer,
    canonical,
    final,
    gold,
    normalise,
    number,
    phrase,
)
from autodidact.tasks.arithmetic import value
from autodidact.tasks.mathworker import equal


def numeric(problem: Problem, completion: str) -> bool:
    r"""Whether the final answer is the number `problem.answer`, compared exactly.

    The answer must be a number (`18`, `1,234.50`, `3/4`, `\frac{3}{4}`, `1 1/2`, with or without a
    unit), not a calculation: else a question would be its own answer. `50%` is 50.
    """
    found = answer(completion)
    if found is None:
        return False
    truth = reference(problem)
    try:
        return number(found) == truth
    except ValueError:
        return False


def exact(problem: Problem, completion: str) -> bool:
    """Whether the answer is the text `problem.answer`, both normalised; letter case counts."""
    return phrase(completion) == normalise(_answer(problem))


def mathematics(problem: Problem, completion: str) -> bool:
    """Whether the final answer is mathematically `problem.answer`, as math-verify judges.

    Equal after normalising is equal. Anything else is compared in a process that is killed at a
    wall limit (`mathworker.WALL` seconds), which counts as wrong.
    """
    found, truth = answer(completion), _answer(problem)
    return found is not None and (canonical(found) == canonical(truth) or equal(truth, found))


def reference(problem: Problem) -> Fraction:
    """The number that `problem.answer` is; `ValueError` if it is none. May be a calculation."""
    text = _answer(problem)
    try:
        return number(text)
    except ValueError:
        return value(normalise(text), LIMIT)


@dataclass(frozen=True)
class Verifier:
    """How a kind of answers is graded: `correct`, and `final` for majority votes."""

    correct: Callable[[Problem, str], bool]
    final: Callable[[str], str | None]


VERIFIERS = {
    "numeric": Verifier(numeric, final),
    "mathematics": Verifier(mathematics, final),
    "exact": Verifier(exact, phrase),
}


def verifier(name: str) -> Verifier:
    """The verifier of that name; `ValueError` with the nearest one if there is none."""
    return VERIFIERS[choose("verifier", name, VERIFIERS)]


def _answer(problem: Problem) -> str:
    if problem.answer is None:
        raise ValueError(f"no answer to compare with: {problem.question[:60]!r}")
    return gold(problem.answer)
