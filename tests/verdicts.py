"""Every verifier of the library on one text: for the tests of hostile text, and for fuzzing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from autodidact.problem import Problem, Task
from autodidact.tasks import (
    answers,
    arithmetic,
    choices,
    countdown,
    d1,
    expressions,
    files,
    grids,
    hendrycks,
    modular_sum,
    puzzles,
    random_calculation,
    reverse_text,
    spoken,
    steps,
    sudoku,
    tagged,
    verifiers,
)  # fmt: skip

ROW = {"question": "What is 2 ^ 13 - 1?", "answer": "8192 - 1 = 8191\n#### 8191"}
MATH = {"problem": "What is 2 ^ 13 - 1?", "solution": "It is \\boxed{8191}."}


def tasks(folder: Path) -> dict[str, Task]:
    """A task of every kind, with one problem to train on; files are written into a folder."""
    for name, row in (("gsm8k", ROW), ("math", MATH)):
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    data = folder / "gsm8k.jsonl"
    one = {"train": 1, "test": 0}
    found = {
        "numeric": files.from_file(data, test=0, verifier="numeric"),
        "exact": files.from_file(data, test=0, verifier="exact"),
        "d1_gsm8k": d1.d1_gsm8k(str(data)),
        "d1_gsm8k_lines": d1.d1_gsm8k(str(data), multiline=True),
        "d1_math": d1.d1_math(str(folder / "math.jsonl")),
        "choices": choices.choices(**one),
        "modular_sum": modular_sum.modular_sum(**one),
        "reverse_text": reverse_text.reverse_text(**one),
    }
    for wording in ("full", "terse"):
        found[f"calculation_{wording}"] = random_calculation.random_calculation(
            steps=1, wording=wording, **one
        )
    for wording in ("d1", "terse"):
        for reward in ("published", "exact"):
            options = {"wording": wording, "reward": reward, **one}
            found[f"countdown_{wording}_{reward}"] = countdown.countdown(**options)
            found[f"sudoku_{wording}_{reward}"] = sudoku.sudoku(**options)
    return found


class Graders(dict):
    """Graders by name. Hypothesis would print all of them."""

    def __repr__(self) -> str:
        return f"{len(self)} graders"


def graders(folder: Path) -> Graders:
    """Name -> what grades or reads one completion; `correct:` in the name where it says right."""
    found: dict[str, Callable[[str], Any]] = {}
    for name, task in tasks(folder).items():
        problem, correct, final, reply = task.train[0], task.correct, task.final, task.feedback
        found[f"correct:{name}"] = lambda text, p=problem, f=correct: f(p, text)
        found[f"reward:{name}"] = lambda text, p=problem, t=task: t.score([p], [text])[0]
        found[f"final:{name}"] = lambda text, f=final: f(text)
        if reply is not None:
            found[f"feedback:{name}"] = lambda text, p=problem, f=reply: f(p, text)
    given = Problem("3,7,20:41", answer="20+7*3", meta={"numbers": [3, 7, 20], "target": 41})
    puzzle = Problem("3102200002100320", answer="3142243142131324")
    found |= {
        "correct:puzzle": lambda text: puzzles.correct(given, text),
        "correct:grid": lambda text: sudoku.correct(puzzle, text),
        "correct:expression": lambda text: expressions.solves(text, [3, 7, 20], 41),
        "correct:hendrycks": lambda text: hendrycks.same(text, "8191"),
        "reward:tag": lambda text: puzzles.published(given, text),
        "text:fault": lambda text: expressions.fault(text, [3, 7, 20], 41),
        "text:grid": grids.stated,
        "text:official": tagged.official,
        "text:tagged": tagged.tagged,
        "text:spoken": spoken.final,
        "text:phrase": answers.phrase,
        "text:gold": answers.gold,
        "text:canonical": answers.canonical,
        "text:boxed": hendrycks.boxed,
        "steps": lambda text: steps.wrong(Problem("q"), text.split("\n")),
        "value": lambda text: refused(arithmetic.value, text),
        "number": lambda text: refused(answers.number, text),
        "reference": lambda text: refused(verifiers.reference, Problem("q", answer=text)),
        "truth:countdown": lambda text: refused(puzzles.from_truth, "q", text),
        "truth:sudoku": lambda text: refused(sudoku.from_truth, "3102200002100320", text),
        "plain": lambda text: refused(hendrycks.plain, text),
    }
    return Graders(found)


def refused(function: Callable[..., Any], *given: Any) -> Any:
    """What a function says, `None` where it refuses by a `ValueError`; others are raised."""
    try:
        return function(*given)
    except ValueError:
        return None


def checked(name: str, found: Any) -> None:
    """Whether a grader said what it may: a verdict, a finite number, a text, or nothing."""
    kind = name.partition(":")[0]
    if kind == "correct":
        assert type(found) is bool, f"{name} said {found!r}"
    elif kind == "reward":
        assert isinstance(found, float), f"{name} said {found!r}"
        assert math.isfinite(found), f"{name} said {found!r}"
    elif kind in ("final", "feedback", "text"):
        assert found is None or isinstance(found, str), f"{name} said {found!r}"
    elif kind in ("value", "number", "reference"):
        assert found is None or isinstance(found, Fraction), f"{name} said {found!r}"
