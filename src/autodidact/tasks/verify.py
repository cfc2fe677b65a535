"""Grading a file of completions: `autodidact verify --task gsm8k FILE`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autodidact.names import choose, nearest
from autodidact.problem import Problem
from autodidact.tasks import puzzles, sudoku
from autodidact.tasks.rows import Row, read
from autodidact.tasks.values import as_text
from autodidact.tasks.verifiers import exact, mathematics, numeric, reference

TASKS: dict[str, Callable[[Problem, str], bool]] = {
    "gsm8k": numeric,
    "math": mathematics,
    "numeric": numeric,
    "exact": exact,
    "random_calculation": numeric,
    "countdown": puzzles.correct,
    "sudoku": sudoku.correct,
}
"""Which verifier grades a task, by the task's name."""

PUZZLES: dict[str, Callable[[str, Any], Problem]] = {
    "countdown": puzzles.from_truth,
    "sudoku": sudoku.from_truth,
}
"""What makes a problem of a question and its truth, where that is more than an answer."""

COLUMNS = ("question", "completion", "answer")
TRUTH = "truth"
"""Another name of the column `answer`."""


@dataclass(frozen=True)
class Grades:
    """What `verify` found: the rows of the file, and for each whether it is right."""

    rows: tuple[dict, ...]
    correct: tuple[bool, ...]

    @property
    def accuracy(self) -> float:
        """Share of right rows, in [0, 1]."""
        return sum(self.correct) / len(self.correct)

    def write(self, path: str | Path) -> None:
        """Writes the rows with their `correct`, one JSON object a line."""
        with Path(path).open("w", encoding="utf-8") as file:
            for row, correct in zip(self.rows, self.correct, strict=True):
                file.write(json.dumps({**row, "correct": correct}, ensure_ascii=False) + "\n")


def verify(path: str | Path, task: str) -> Grades:
    """Grades a file of `question`, `completion`, `answer`, one row a completion.

    Args:
        path: JSONL, or any file that `rows.read` reads.
        task: one of `TASKS`. `answer`, or `truth` in its place, may be a number, or a reference
            that ends in `#### n`; for Countdown it is `[[49, 55, 53], 51]` or a right expression,
            for Sudoku a solution of the puzzle in the question.

    Raises:
        ValueError: unknown task, or a row that cannot be graded, with file and line.
    """
    grade = TASKS[choose("task", task, TASKS)]
    rows = read(Path(path))
    problems = [_problem(row, task) for row in rows]
    correct = [
        grade(problem, row.values["completion"])
        for problem, row in zip(problems, rows, strict=True)
    ]
    return Grades(tuple(row.values for row in rows), tuple(correct))


def _problem(row: Row, task: str) -> Problem:
    if row.fault:
        raise ValueError(f"{row.at}: {row.fault}")
    values = dict(row.values)
    if values.get("answer") is None and TRUTH in values:
        values["answer"] = values[TRUTH]
    for name in COLUMNS:
        if values.get(name) is None:
            raise ValueError(
                f"{row.at}: no {name!r}; columns of this row: {', '.join(row.values)}"
                f"{nearest(name, row.values)}; needed: {', '.join(COLUMNS)}"
            )
    try:
        question, _ = (as_text(values, name) for name in COLUMNS[:2])
        assert question is not None
        if task in PUZZLES:
            return PUZZLES[task](question, values["answer"])
        problem = Problem(question, answer=as_text(values, "answer", numbers=True))
        if TASKS[task] is numeric:
            reference(problem)
    except ValueError as error:
        raise ValueError(f"{row.at}: {error}") from error
    return problem
