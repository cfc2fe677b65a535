"""Which problems are held out, and how many of a number."""

from __future__ import annotations

import hashlib

from autodidact.problem import Problem


def divide(
    problems: list[Problem], test: float, seed: int, path: str
) -> tuple[list[Problem], list[Problem]]:
    """Problems to train on and to hold out, in the order of the file, questions kept together."""
    keys = [" ".join(problem.question.split()) for problem in problems]
    order = sorted(dict.fromkeys(keys), key=lambda key: _digest(f"{seed}:{key}"))
    held_out = count(test, len(order), "test", path)
    if held_out >= len(order):
        raise ValueError(
            f"{path}: test={test} holds out all {len(order)} questions; allowed: fewer, or a "
            "test_file, or test=0"
        )
    chosen = set(order[:held_out])
    pairs = list(zip(problems, keys, strict=True))
    return [p for p, key in pairs if key not in chosen], [p for p, key in pairs if key in chosen]


def count(wanted: float, available: int, option: str, path: str) -> int:
    """A share of what is available (below 1, at least one), or a number of it."""
    if 0 < wanted < 1:
        return max(1, round(wanted * available))
    if (
        wanted < 0
        or wanted != int(wanted)
        or wanted > available
        or (option, wanted) == ("train", 0)
    ):
        allowed = "a share below 1 or a number" if option == "test" else "a number"
        raise ValueError(f"{path}: {option}={wanted}; allowed: {allowed} up to {available}")
    return int(wanted)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()
