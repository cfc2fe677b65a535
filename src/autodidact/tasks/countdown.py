"""Countdown: make a number out of given numbers, each used once, with `+ - * /`.

    [49, 55, 53] -> 51    answered by    49+55-53

Any right expression counts; `correct` checks one exactly (`expressions.solves`), and reads a
completion as a careful reader would (`spoken.stated`). The published reward (d1, arXiv
2504.12216) reads the last `<answer>...</answer>` to the letter: 1 if it is right, 0.1 if it is
not, 0 without it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from autodidact.names import choose
from autodidact.problem import Problem, Task
from autodidact.tasks import expressions, spoken
from autodidact.tasks.arithmetic import value
from autodidact.tasks.asking import TERSE, Asking
from autodidact.tasks.puzzles import (
    FORMAT,
    Wording,
    from_file,
    goal,
    key,
    last_line,
    problem,
    published,
)

Grading = Literal["published", "exact"]

REFERENCE = {
    "d1": "{question}\n\nHere is a reference solution:\n{solution}\n\n"
    "Now solve the problem yourself, step by step.",
    "terse": TERSE,
}
"""What a privileged teacher reads, by wording."""
TRIES = 20_000
"""Expressions drawn without a new puzzle among them before there are taken to be no more."""


def countdown(
    numbers: int | tuple[int, int] = 3,
    largest: int = 100,
    target: tuple[int, int] = (1, 100),
    operators: str = "+-*/",
    wording: Wording = "d1",
    reward: Grading = "published",
    train: int = 2000,
    test: int = 256,
    seed: int = 0,
    path: str | Path | None = None,
) -> Task:
    """Random Countdown puzzles, every one solvable (d1, arXiv 2504.12216).

    Whole numbers from 1 to `largest` are joined by a random expression tree, and a puzzle is kept
    if the value is a whole number in `target`. Problems are distinct as (numbers, target) in any
    order of the numbers, and none is in both splits.

    Args:
        numbers: how many, a number or `(fewest, most)`, of 2 to `expressions.MOST`.
        largest: largest given number.
        target: `(least, greatest)` target.
        operators: some of `+-*/`.
        wording: see `Wording`. A terse solution is a line for each step, then the expression.
        reward: `"published"` (`puzzles.published`), or `"exact"`: 1 if `correct`, else 0. In terse
            wording the last line stands for the tag.
        train, test: problems wanted.
        seed: of everything.
        path: a file of test problems, `{"input": "30,100,93", "output": "23"}` a line; `test` is
            then the most that are read.

    Returns:
        A `Task`; `meta` of each problem holds `numbers` and `target`, `answer` is one right
        expression.

    Raises:
        ValueError: an option out of range, fewer distinct puzzles than asked for, or a row of
            `path` that is no puzzle.
    """
    counts = (numbers, numbers) if isinstance(numbers, int) else tuple(numbers)
    _check(counts, largest, target, operators, train, test)
    choose("wording", wording, get_args(Wording))
    choose("reward", reward, get_args(Grading))
    rng = random.Random(seed)
    held_out = [] if path is None else from_file(Path(path), wording, operators)[:test]
    taken = {key(problem) for problem in held_out}
    wanted = train + (test if path is None else 0)
    made = _puzzles(rng, counts, largest, target, operators, wanted, taken)
    problems = [problem(given, goal, wording, text, operators) for given, goal, text in made]

    asking = Asking(REFERENCE[wording])

    def given(completion: str) -> str | None:
        return last_line(completion) if wording == "terse" else spoken.stated(completion)

    def right(problem: Problem, completion: str) -> bool:
        found = given(completion)
        return found is not None and expressions.solves(found, *goal(problem), operators)

    def graded(problems: Sequence[Problem], completions: Sequence[str]) -> list[float | None]:
        pairs = zip(problems, completions, strict=True)
        if reward == "exact":
            return [float(right(problem, text)) for problem, text in pairs]
        if wording == "d1":
            return [published(problem, text, operators) for problem, text in pairs]
        return [
            1.0 if right(problem, text) else FORMAT if text.strip() else 0.0
            for problem, text in pairs
        ]

    def final(completion: str) -> str | None:
        found = given(completion)
        return None if found is None else expressions.canonical(found)

    def feedback(problem: Problem, completion: str) -> str:
        found = given(completion)
        if found is None:
            return "No expression was found in the answer."
        fault = expressions.fault(found, *goal(problem), operators)
        return f"{found} is right." if fault is None else f"{found} is wrong: {fault}."

    return Task(
        "countdown",
        train=problems[:train],
        test=held_out or problems[train:],
        prompt=asking.prompt,
        privileged=asking.privileged,
        correct=right,
        reward=graded,
        final=final,
        told=asking.told if wording == "terse" else None,
        feedback=feedback,
    )


def tiny_countdown(train: int = 2000, test: int = 500, seed: int = 0) -> Task:
    """The setting for a tiny model: three numbers to 15, `+-*`, targets to 60, terse wording.

    A question is `3,7,20:41`, a solution one equation a line, then the whole expression
    (`7*3=21`, `20+21=41`, `20+7*3`).
    """
    return countdown(
        largest=15,
        target=(1, 60),
        operators="+-*",
        wording="terse",
        train=train,
        test=test,
        seed=seed,
    )


def _puzzles(
    rng: random.Random,
    counts: tuple[int, ...],
    largest: int,
    target: tuple[int, int],
    operators: str,
    wanted: int,
    taken: set[tuple[tuple[int, ...], int]],
) -> list[tuple[list[int], int, str]]:
    """Distinct `(numbers, target, expression)` that are not taken."""
    seen = set(taken)
    found: list[tuple[list[int], int, str]] = []
    missed = 0
    while len(found) < wanted and missed < TRIES:
        missed += 1
        given = [rng.randint(1, largest) for _ in range(rng.randint(*counts))]
        text = _tree(rng, rng.sample(given, len(given)), operators)
        try:
            result = value(text)
        except ValueError:  # a division by zero
            continue
        puzzle = (tuple(sorted(given)), int(result))
        if result.denominator == 1 and target[0] <= result <= target[1] and puzzle not in seen:
            missed = 0
            seen.add(puzzle)
            found.append((given, int(result), text))
    if len(found) < wanted:
        raise ValueError(
            f"train + test asks for {wanted} problems, but only {len(found)} distinct puzzles were "
            "found; ask for fewer, or allow a larger `largest`, more numbers or targets"
        )
    return found


def _tree(rng: random.Random, numbers: list[int], operators: str) -> str:
    """A random expression of the numbers in this order, in full brackets."""
    if len(numbers) == 1:
        return str(numbers[0])
    cut = rng.randint(1, len(numbers) - 1)
    left, right = (_tree(rng, part, operators) for part in (numbers[:cut], numbers[cut:]))
    return f"({left}{rng.choice(operators)}{right})"


def _check(counts, largest, target, operators, train, test) -> None:
    if len(counts) != 2 or not 2 <= counts[0] <= counts[1] <= expressions.MOST:
        raise ValueError(
            f"numbers={counts}; allowed: a number or (fewest, most), 2 to {expressions.MOST}"
        )
    if largest < 1:
        raise ValueError(f"largest={largest}; allowed: 1 or more")
    if len(target) != 2 or target[0] > target[1]:
        raise ValueError(f"target={target}; allowed: (least, greatest)")
    if not operators or set(operators) - set("+-*/"):
        raise ValueError(f"operators={operators!r}; allowed: some of '+-*/'")
    if train < 0 or test < 0 or train + test == 0:
        raise ValueError(f"train={train}, test={test}; allowed: 0 or more, and not both 0")
