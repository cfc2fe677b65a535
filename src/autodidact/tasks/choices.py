"""Choices: which of some numbers divide a number? Several answers may be right, and some count.

    36:5,6,7,12      answered by    6,12      those that divide
    36!5,6,7,12      answered by    5,7       those that do not

A text stand-in for questions with several choices, whose reward says how much of the right set was
found (TW-GRPO, arXiv 2505.24718): |given| / |right| for a set without a wrong choice, else 0.
Every question has a right and a wrong choice, so that it can be turned round.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from typing import Literal, get_args

from autodidact.names import choose
from autodidact.problem import Problem, Task
from autodidact.tasks.asking import Asking

Grading = Literal["soft", "exact"]

TRIES = 200
"""Questions drawn for each one that is wanted, before giving up."""


def choices(
    options: int = 4,
    right: int | tuple[int, int] = (1, 3),
    largest: int = 60,
    turned: bool = False,
    reward: Grading = "soft",
    train: int = 2000,
    test: int = 256,
    seed: int = 0,
) -> Task:
    """Which of these numbers divide n? With partial credit (TW-GRPO, arXiv 2505.24718).

    Args:
        options: choices of a question, different numbers from 2 to 12.
        right: how many of them divide, a number or `(fewest, most)`.
        largest: n is at most this.
        turned: questions with one right choice ask for the others instead, see `inverted`.
        reward: `"soft"`, see `soft_choice`, or `"exact"`: 1 if `correct`, else 0.
        train, test: problems wanted. All are distinct.
        seed: of everything.

    Returns:
        A `Task`; `meta` of each problem holds `number`, `options` and `turned`, and `answer` the
        right choices in the order in which they were given.

    Raises:
        ValueError: an option out of range, or fewer distinct questions than asked for.
    """
    fewest, most = (right, right) if isinstance(right, int) else right
    if not (2 <= options <= 11 and 1 <= fewest <= most < options):
        raise ValueError(
            f"options={options}, right={right}; allowed: 2 to 11 options, and from 1 right one to "
            "one less than there are"
        )
    choose("reward", reward, get_args(Grading))
    if largest < 2:
        raise ValueError(f"largest={largest}; allowed: 2 or more")
    if train < 0 or test < 0 or train + test == 0:
        raise ValueError(f"train={train}, test={test}; allowed: 0 or more, and not both 0")
    wanted = train + test
    drawn = _questions(random.Random(seed), options, (fewest, most), largest, wanted)
    made = [question(number, given) for number, given in drawn]
    made = [inverted(p) if turned and len(_set(p.answer)) == 1 else p for p in made]

    asking = Asking()

    def correct(problem: Problem, completion: str) -> bool:
        return stated(completion) == _set(problem.answer)

    def graded(problems: Sequence[Problem], completions: Sequence[str]) -> list[float | None]:
        grade = soft_choice if reward == "soft" else lambda given, gold: float(given == gold)
        pairs = zip(problems, completions, strict=True)
        return [grade(stated(text) or set(), _set(problem.answer)) for problem, text in pairs]

    def final(completion: str) -> str | None:
        given = stated(completion)
        return None if given is None else ",".join(map(str, sorted(given)))

    return Task(
        "choices", made[:train], made[train:], asking.prompt, asking.privileged, correct, graded,
        final, told=asking.told,
    )  # fmt: skip


def soft_choice(given: Collection[int], gold: Collection[int]) -> float:
    """|given| / |gold| where every given choice is right, else 0: 1 only for the whole set.

    Raises:
        ValueError: nothing is right.
    """
    if not gold:
        raise ValueError("gold is empty: a question needs a right choice")
    given, gold = set(given), set(gold)
    return len(given) / len(gold) if given <= gold else 0.0


def question(number: int, options: Sequence[int], turned: bool = False) -> Problem:
    """The problem of some choices; `turned` asks for those that do not divide.

    Raises:
        ValueError: no choice is right.
    """
    right = [each for each in options if (number % each != 0) == turned]
    if not right:
        raise ValueError(f"{list(options)} for {number}: a question needs a right choice")
    steps = [f"{number}={each}*{number // each}" + _rest(number % each) for each in options]
    answer = ",".join(map(str, right))
    return Problem(
        f"{number}{'!' if turned else ':'}{','.join(map(str, options))}",
        "\n".join([*steps, answer]),
        answer,
        {"number": number, "options": list(options), "turned": turned},
    )


def inverted(problem: Problem) -> Problem:
    """The question for all other choices: of one with a single answer, one with several."""
    meta = problem.meta
    return question(meta["number"], meta["options"], not meta["turned"])


def stated(completion: str) -> set[int] | None:
    """The numbers on the last line that is not blank; `None` where it is no list of numbers."""
    lines = completion.strip().splitlines()
    last = lines[-1].replace(" ", "") if lines else ""
    return _set(last) if re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9}){0,99}", last) else None


def _set(text: str | None) -> set[int]:
    assert text is not None, "every question has an answer"
    return {int(each) for each in text.split(",")}


def _rest(rest: int) -> str:
    return f"+{rest}" if rest else ""


def _questions(
    rng: random.Random, options: int, right: tuple[int, int], largest: int, wanted: int
) -> list[tuple[int, tuple[int, ...]]]:
    """Distinct numbers with their choices, in the order in which they were drawn."""
    found: dict[tuple[int, tuple[int, ...]], None] = {}
    for _ in range(TRIES * wanted):
        number, given = rng.randint(2, largest), tuple(rng.sample(range(2, 13), options))
        if right[0] <= sum(number % each == 0 for each in given) <= right[1]:
            found[number, given] = None
        if len(found) == wanted:
            return list(found)
    raise ValueError(
        f"train + test asks for {wanted} problems, but only {len(found)} distinct ones were found; "
        "ask for fewer, or allow a larger `largest` or other `options`"
    )
