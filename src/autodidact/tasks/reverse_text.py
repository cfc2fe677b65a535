"""Reversing short words: a second skill, untouched by training on arithmetic.

Accuracy on it before and after training measures forgetting.
"""

from __future__ import annotations

import random
from string import ascii_lowercase

from autodidact.problem import Problem, Task
from autodidact.tasks.asking import Asking


def reverse_text(
    length: tuple[int, int] = (3, 5), train: int = 2000, test: int = 200, seed: int = 0
) -> Task:
    """Random lower-case words to be written backwards: `reverse:kdob` is answered by `bodk`.

    Args:
        length: `(fewest, most)` letters of a word.
        train, test: problems wanted. All words are distinct.
        seed: of everything.

    Raises:
        ValueError: no such words, or fewer than asked for.
    """
    fewest, most = length
    if not 1 <= fewest <= most:
        raise ValueError(f"length={length}; allowed: (fewest, most) letters, 1 or more")
    room = sum(26**n for n in range(fewest, most + 1))
    if not 0 < 2 * (train + test) <= room:
        raise ValueError(f"train + test asks for {train + test} words; allowed: 1 to {room // 2}")
    rng = random.Random(seed)
    words: dict[str, None] = {}
    while len(words) < train + test:
        words["".join(rng.choices(ascii_lowercase, k=rng.randint(fewest, most)))] = None
    problems = [Problem(f"reverse:{word}", word[::-1], word[::-1]) for word in words]

    asking = Asking()

    def correct(problem: Problem, completion: str) -> bool:
        return completion.strip() == problem.answer

    return Task(
        "reverse_text",
        train=problems[:train],
        test=problems[train:],
        prompt=asking.prompt,
        privileged=asking.privileged,
        correct=correct,
        final=str.strip,
    )
