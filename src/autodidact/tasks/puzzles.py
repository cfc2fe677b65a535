"""One Countdown puzzle: as a problem, out of rows that others wrote, and its answers checked."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from autodidact.problem import Problem
from autodidact.tasks import expressions, rows, spoken
from autodidact.tasks.arithmetic import parse, value
from autodidact.tasks.tagged import FRAME, tagged
from autodidact.tasks.values import as_text
from autodidact.tasks.worked import worked

Wording = Literal["d1", "terse"]
"""`"d1"`: the published prompt with tags; `"terse"`: `3,7,20:41`, for a tiny model."""
FORMAT = 0.1
"""The published reward of a wrong answer."""

INSTRUCTION = (
    FRAME + "\nUsing only the numbers {numbers}, create an arithmetic expression that evaluates "
    "to exactly {target}. You must use all numbers from the list, and each number must be used "
    "exactly once. You may use the operations {operators} as needed. After reasoning, provide "
    "only your final expression inside <answer></answer> tags without including an equals sign "
    "or the target number. For example, if the numbers are [2, 3, 4] and the target is 5, a valid "
    "answer is: <answer>\n2*4-3\n</answer>"
)
"""What `wording="d1"` asks (the paper's text)."""
_CHARACTERS = re.compile(r"[-0-9+*/().\s]+")
_COLUMNS = ("input", "output")


def problem(
    numbers: Sequence[int],
    target: int,
    wording: Wording = "d1",
    answer: str | None = None,
    operators: str = "+-*/",
) -> Problem:
    """The problem of one puzzle.

    Args:
        numbers, target: of the puzzle.
        wording: of question and solution.
        answer: a right expression; found by `expressions.solve` if not given.
        operators: that are allowed.

    Raises:
        ValueError: it has no solution, or `answer` is none.
    """
    given = list(numbers)
    if answer is None:
        found = expressions.solve(given, target, operators)
        if not found:
            raise ValueError(f"{given} cannot make {target} with {operators}; allowed: a puzzle")
        answer = found[0]
    elif fault := expressions.fault(answer, given, target, operators):
        raise ValueError(f"{answer!r} does not solve {given} -> {target}: {fault}")
    answer = expressions.canonical(answer)
    steps = worked(parse(answer), "terse")
    if wording == "terse":
        question = f"{','.join(map(str, given))}:{target}"
        solution = f"{steps}\n{answer}"
    else:
        names = [*operators[:-1], f"and {operators[-1]}"] if len(operators) > 1 else [operators]
        question = INSTRUCTION.format(
            numbers=given, target=target, operators=(", " if len(names) > 2 else " ").join(names)
        )
        solution = f"<reasoning>\n{steps}\n</reasoning>\n<answer>\n{answer}\n</answer>"
    return Problem(question, solution, answer, {"numbers": given, "target": target})


def correct(problem: Problem, completion: str) -> bool:
    """Whether a completion's expression makes the target of all numbers, each used once."""
    found = spoken.stated(completion)
    return found is not None and expressions.solves(found, *goal(problem))


def published(problem: Problem, completion: str, operators: str = "+-*/") -> float:
    """The reward of d1: the last `<answer>` tag to the letter; 1, 0.1 or 0.

    Where its code evaluates Python, this takes plain arithmetic only: `2**3` and `7//2` are wrong.
    """
    text = tagged(completion)
    if text is None:
        return 0.0
    numbers, target = goal(problem)
    exact = _CHARACTERS.fullmatch(text) and expressions.solves(text, numbers, target, operators)
    return 1.0 if exact else FORMAT


def last_line(completion: str) -> str | None:
    """The expression in the last line, what a terse completion answers; `None` if it has none."""
    lines = completion[-spoken.LENGTH :].split("\n")
    filled = [line for line in lines if line.strip()]
    return spoken.expression(filled[-1]) if filled else None


def goal(problem: Problem) -> tuple[list[int], int]:
    """The numbers and the target: from `meta`, or else those of the right answer.

    Raises:
        ValueError: the problem has neither.
    """
    if "numbers" in problem.meta:
        return list(problem.meta["numbers"]), int(problem.meta["target"])
    if problem.answer is None:
        raise ValueError(f"no numbers and target are known of {problem.question[:60]!r}")
    result = value(problem.answer)
    if result.denominator != 1:
        raise ValueError(f"{problem.answer[:60]!r} makes {result}; allowed: a whole number")
    return expressions.leaves(problem.answer), int(result)


def from_truth(question: str, truth: Any) -> Problem:
    """The problem of a row: truth is `[[49, 55, 53], 51]`, as a list or its text, or a solution.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(truth, str) and not truth.lstrip().startswith("["):
        found = Problem(question, answer=truth)
        goal(found)
        return found
    try:
        numbers, target = json.loads(truth) if isinstance(truth, str) else truth
        if any(int(number) != number for number in (*numbers, target)):
            raise ValueError("a number that is not whole")
        meta = {"numbers": [int(number) for number in numbers], "target": int(target)}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{str(truth)[:60]!r} is no puzzle; allowed: [[49, 55, 53], 51], or an expression"
        ) from error
    return Problem(question, answer=f"{meta['numbers']} -> {meta['target']}", meta=meta)


def from_file(path: Path, wording: Wording = "d1", operators: str = "+-*/") -> list[Problem]:
    """The problems of a file, `{"input": "30,100,93", "output": "23"}` a line.

    Raises:
        ValueError: a row that is no puzzle, or one without a solution, with file and line.
    """
    problems = []
    for row in rows.read(path):
        try:
            if row.fault:
                raise ValueError(row.fault)
            given, target = (as_text(row.values, name, numbers=True) for name in _COLUMNS)
            if given is None or target is None:
                raise ValueError(f"columns {', '.join(row.values)}; needed: input, output")
            numbers = [int(number) for number in given.split(",")]
            problems.append(problem(numbers, int(target), wording, None, operators))
        except ValueError as error:
            raise ValueError(f"{row.at}: {error}") from error
    return problems


def key(problem: Problem) -> tuple[tuple[int, ...], int]:
    """What makes two puzzles the same: the numbers in order, and the target."""
    numbers, target = goal(problem)
    return tuple(sorted(numbers)), target
