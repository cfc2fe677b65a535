"""Digits whose sum leaves a given remainder, written in place: the canvas is [target, ?, ?, ?].

    4...    answered by    4031    as 0 + 3 + 1 = 8 and so 4 mod 5

The smallest task that tells sequential from parallel decoding: many answers are right, and each
place may hold any digit, but the last one has to fit the others. Places that are written at once
from the law of each place alone are right by chance, unless the model has settled on one answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from autodidact.problem import Problem, Task
from autodidact.tasks.asking import Asking

DIGITS = "0123456789"


def modular_sum(
    base: int = 5, places: int = 3, train: int = 80, test: int = 20, seed: int = 0
) -> Task:
    """Digits from 0 to base - 1 that add up to the target, modulo the base.

    The reward is 1 for a right answer and 0 for any other. Random digits are right with
    probability 1 / base, whatever the number of places: for any first digits one last digit fits.

    There are only `base` different problems. Both splits repeat all of them in turn, so the test
    problems are those of training: what is tested is how they are solved, not whether new ones are.

    Args:
        base: 2 to 10, so that each digit is one character.
        places: digits that are written.
        train, test: problems of each split; multiples of the base hold all targets equally often.
        seed: of the order of problems.

    Returns:
        A `Task` without prompts, for masked models; `meta` of each problem holds `target`, and
        `solution` is one right row, drawn at random.

    Raises:
        ValueError: an option out of range.
    """
    if not 2 <= base <= len(DIGITS):
        raise ValueError(f"base={base}; allowed: 2 to {len(DIGITS)}")
    if places < 1 or train < 0 or test < 0 or train + test == 0:
        raise ValueError(
            f"places={places}, train={train}, test={test}; allowed: 1 place or more, 0 problems or "
            "more, and not both 0"
        )
    rng = random.Random(seed)

    def correct(problem: Problem, completion: str) -> bool:
        digits = _digits(completion)
        target = problem.meta["target"]
        return digits is not None and digits[0] == target and sum(digits[1:]) % base == target

    def final(completion: str) -> str | None:
        return completion if _digits(completion) is not None else None

    def _digits(completion: str) -> list[int] | None:
        """The target and the digits after it; `None` if that is not what was written."""
        if len(completion) != 1 + places or set(completion) - set(DIGITS[:base]):
            return None
        return [int(digit) for digit in completion]

    def canvas(problem: Problem) -> Sequence[str | None]:
        return [str(problem.meta["target"]), *[None] * places]

    return Task(
        "modular_sum",
        train=_problems(rng, base, places, train),
        test=_problems(rng, base, places, test),
        prompt=lambda problem: [],
        privileged=Asking().privileged,
        correct=correct,
        final=final,
        canvas=canvas,
    )


def _problems(rng: random.Random, base: int, places: int, count: int) -> list[Problem]:
    problems = []
    for number in range(count):
        target = number % base
        first = [rng.randrange(base) for _ in range(places - 1)]
        row = "".join(map(str, [target, *first, (target - sum(first)) % base]))
        question = f"{target}{'.' * places}"
        problems.append(Problem(question, row, str(target), {"target": target}))
    rng.shuffle(problems)
    return problems
