r"""RandomCalculation: unlimited fresh arithmetic, its difficulty the number of operations.

A test bed that no training corpus can have leaked (arXiv 2507.10532). Atoms have no operation:
integers `i`, fractions `\frac{i}{q}` (q = 2..9), squares `i^2` and cubes `i^3`. An expression of
level n joins one of level j and one of level n-1-j by an operator. `*` and `/` put brackets round
an operand that has an operation, `+` and `-` never do, so the written string is what counts:
`a-(b+c)` is written `a-b+c`, and the answer is the value of that string, computed exactly by
`arithmetic.value`. Strings that divide by zero are dropped.

The reward is graded, `1 - min(|a-b|, 1) / 2 - min(|a-b| / (|b|+1e-6), 1) / 2` for an answer `a`
to a true value `b`, and 0 without a readable answer. `inverted` and `random_reward` are controls:
a method that learns from them as well does not learn from the reward.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from typing import Literal, get_args

from autodidact.names import choose
from autodidact.problem import Problem, Reward, Task
from autodidact.tasks import answers
from autodidact.tasks.arithmetic import parse, value
from autodidact.tasks.asking import TERSE, Asking
from autodidact.tasks.worked import BOUND, Wording, show, worked

Atom = Literal["integer", "fraction", "square", "cube"]

INSTRUCTION = (
    "Evaluate this LaTeX numerical expression step-by-step "
    "and give the final value within \\boxed{}: "
)
"""What `wording="full"` puts before the expression (the paper's text)."""
REFERENCE = {
    "full": "{question}\n\nHere is a reference solution:\n{solution}\n\n"
    "Now solve the problem yourself, step by step.",
    "terse": TERSE,
}
"""What a privileged teacher reads, by wording."""
DRAWS = 1200
"""Draws for each way of splitting a level (the paper's number)."""


def random_calculation(
    steps: int | tuple[int, int] = (1, 3),
    largest: int = 99,
    operators: str = "+-*/",
    atoms: Sequence[Atom] = ("integer", "fraction", "square", "cube"),
    wording: Wording = "full",
    train: int = 700,
    test: int = 300,
    bound: int = BOUND,
    seed: int = 0,
) -> Task:
    r"""Random arithmetic expressions with worked solutions (arXiv 2507.10532).

    The paper's sets are `steps=5` and `steps=10`, everything else as it stands.

    Args:
        steps: operations of an expression, a number or `(fewest, most)`. Levels get equal
            shares; one with too few distinct expressions gives what it has.
        largest: largest integer, numerator, and base of a square or cube.
        operators: some of `+-*/`, drawn uniformly.
        atoms: kinds of numbers, all numbers of all kinds equally likely.
        wording: `"full"` asks for step-by-step work with the value in `\boxed{}`; `"terse"` is
            the expression alone, and its solution one equation a line.
        train, test: problems wanted. All are distinct.
        bound: expressions with a larger numerator or denominator are dropped. Huge values make
            both terms of the reward 0 whatever the answer.
        seed: of everything.

    Returns:
        A `Task`; each problem's `meta` holds `expression` and `steps`.

    Raises:
        ValueError: an option out of range, or fewer distinct expressions than asked for.
    """
    fewest, most = (steps, steps) if isinstance(steps, int) else steps
    _check(fewest, most, largest, operators, atoms, wording, train, test)
    rng = random.Random(seed)
    found = _expressions(rng, fewest, most, largest, operators, atoms, train + test, bound)
    problems = [problem(text, wording, count, bound) for text, count in found]

    asking = Asking(REFERENCE[wording])

    def answer(completion: str) -> Fraction | None:
        return stated(completion, wording)

    def correct(problem: Problem, completion: str) -> bool:
        given, truth = answer(completion), problem.answer
        return given is not None and truth is not None and given == value(truth, bound)

    def reward(problems: Sequence[Problem], completions: Sequence[str]) -> list[float | None]:
        return [
            None if problem.answer is None else graded(answer(text), value(problem.answer, bound))
            for problem, text in zip(problems, completions, strict=True)
        ]

    def final(completion: str) -> str | None:
        given = answer(completion)
        return None if given is None else str(given)

    return Task(
        "random_calculation",
        train=problems[:train],
        test=problems[train:],
        prompt=asking.prompt,
        privileged=asking.privileged,
        correct=correct,
        reward=reward,
        final=final,
        told=asking.told if wording == "terse" else None,
    )


def tiny_calculation(train: int = 2000, test: int = 500, seed: int = 0) -> Task:
    """The setting of the shipped tiny model: 1-3 of `+-*` on integers to 20, values to 200.

    A question is the expression alone (`7+8*3`), a solution one equation a line
    (`8*3=24`, `7+24=31`).
    """
    return random_calculation(
        steps=(1, 3),
        largest=20,
        operators="+-*",
        atoms=("integer",),
        wording="terse",
        train=train,
        test=test,
        bound=200,
        seed=seed,
    )


def problem(
    expression: str, wording: Wording = "terse", steps: int | None = None, bound: int = BOUND
) -> Problem:
    """The problem of one expression: question, worked solution, exact answer."""
    question = INSTRUCTION + expression if wording == "full" else expression
    solution = worked(parse(expression, bound), wording)
    meta = {"expression": expression, "steps": steps}
    return Problem(question, solution, show(value(expression, bound), wording), meta)


def stated(completion: str, wording: Wording = "terse") -> Fraction | None:
    r"""The number a completion ends with: after the last `=`, or in the last `\boxed{}`.

    A calculation is no answer: else copying the question would be right.
    """
    if wording == "terse":
        _, sign, text = completion.rpartition("=")
    else:
        _, sign, text = completion.rpartition("\\boxed{")
        text = _until_closed(text)
    try:
        return answers.number(text) if sign else None
    except ValueError:
        return None


def graded(given: Fraction | None, truth: Fraction) -> float:
    """`1 - min(|a-b|, 1) / 2 - min(|a-b| / (|b|+1e-6), 1) / 2`; 0 for no answer."""
    if given is None:
        return 0.0
    distance = abs(float(given) - float(truth))
    return 1 - min(distance, 1) / 2 - min(distance / (abs(float(truth)) + 1e-6), 1) / 2


def inverted(reward: Reward) -> Reward:
    """The control that pays for being wrong: `1 - reward`."""

    def opposite(problems: Sequence[Problem], completions: Sequence[str]) -> list[float | None]:
        return [None if r is None else 1 - r for r in reward(problems, completions)]

    return opposite


def random_reward(chance: float = 0.5, seed: int = 0) -> Reward:
    """The control that knows nothing: a fresh coin for every completion, 1 with `chance`."""
    rng = random.Random(seed)

    def coin(problems: Sequence[Problem], completions: Sequence[str]) -> list[float | None]:
        return [float(rng.random() < chance) for _ in completions]

    return coin


def _expressions(
    rng: random.Random,
    fewest: int,
    most: int,
    largest: int,
    operators: str,
    atoms: Sequence[Atom],
    wanted: int,
    bound: int,
) -> list[tuple[str, int]]:
    """Distinct `(string, operations)`, shuffled."""
    levels = range(fewest, most + 1)
    pools = [list(dict.fromkeys(text for kind in atoms for text in _atoms(kind, largest)))]
    for level in range(1, most + 1):
        splits = (level + 1) // 2
        draws = max(DRAWS, 2 * wanted // splits)
        pool = [
            text
            for j in range(splits)
            for text in _draws(rng, pools[j], pools[level - 1 - j], j, level, operators, draws)
        ]
        pools.append(list(dict.fromkeys(pool)))
    sources = [_defined(rng.sample(pools[level], len(pools[level])), bound) for level in levels]
    share = -(-wanted // len(levels))
    chosen = [
        (text, level)
        for level, source in zip(levels, sources, strict=True)
        for text in islice(source, share)
    ]
    rng.shuffle(chosen)
    rest = ((text, level) for level, source in zip(levels, sources, strict=True) for text in source)
    chosen = [*chosen, *islice(rest, max(0, wanted - len(chosen)))][:wanted]
    if len(chosen) < wanted:
        raise ValueError(
            f"train + test asks for {wanted} problems, but only {len(chosen)} distinct "
            f"expressions of {fewest} to {most} operations were found; ask for fewer, or allow "
            "more steps, atoms or a larger `largest`"
        )
    rng.shuffle(chosen)
    return chosen


def _draws(
    rng: random.Random,
    left: list[str],
    right: list[str],
    inner: int,
    level: int,
    operators: str,
    draws: int,
) -> Iterator[str]:
    """Strings of `level` operations: one operand has `inner` of them, the other the rest."""
    for _ in range(draws):
        a, b = (rng.choice(left), inner), (rng.choice(right), level - 1 - inner)
        operator = rng.choice(operators)
        if rng.random() < 0.5:
            a, b = b, a
        if operator in "*/":
            a, b = ((f"({text})" if count else text, count) for text, count in (a, b))
        yield a[0] + operator + b[0]


def _atoms(kind: Atom, largest: int) -> list[str]:
    if kind == "integer":
        return [str(i) for i in range(largest + 1)]
    if kind == "fraction":
        return [f"\\frac{{{i}}}{{{q}}}" for q in range(2, 10) for i in range(1, largest + 1)]
    return [f"{i}^{2 if kind == 'square' else 3}" for i in range(2, largest + 1)]


def _defined(texts: Sequence[str], bound: int) -> Iterator[str]:
    """Those that have a value."""
    for text in texts:
        try:
            value(text, bound)
        except ValueError:
            continue
        yield text


def _until_closed(text: str) -> str:
    """`text` up to the brace that closes one opened before it."""
    depth = 1
    for brace in re.finditer(r"[{}]", text):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[: brace.start()]
    return text


def _check(fewest, most, largest, operators, atoms, wording, train, test) -> None:
    if not 0 <= fewest <= most:
        raise ValueError(f"steps={fewest, most}; allowed: a number or (fewest, most), 0 or more")
    if largest < 2:
        raise ValueError(f"largest={largest}; allowed: 2 or more")
    if not operators or set(operators) - set("+-*/"):
        raise ValueError(f"operators={operators!r}; allowed: some of '+-*/'")
    if not atoms:
        raise ValueError(f"atoms={atoms!r}; allowed: some of {get_args(Atom)}")
    for kind in atoms:
        choose("atom", kind, get_args(Atom))
    choose("wording", wording, get_args(Wording))
    if train < 0 or test < 0 or train + test == 0:
        raise ValueError(f"train={train}, test={test}; allowed: 0 or more, and not both 0")
