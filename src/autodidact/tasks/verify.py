"""Grading a file of completions: `autodidact verify --task gsm8k FILE`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autodidact.names import choose, nearest
from autodidact.problem import Problem
from autodidact.tasks.rows import Row, as_text, read
from autodidact.tasks.verifiers import exact, mathematics, numeric, reference

TASKS: dict[str, Callable[[Problem, str], bool]] = {
    "gsm8k": numeric,
    "math": mathematics,
    "numeric": numeric,
    "exact": exact,
    "random_calculation": numeric,
}
"""Which verifier grades a task, by the task's name."""

COLUMNS = ("question", "completion", "answer")


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
        task: one of `TASKS`. `answer` may be a number, or a reference that ends in `#### n`.

    Raises:
        ValueError: unknown task, or a row that cannot be graded, with file and line.
    """
    grade = TASKS[choose("task", task, TASKS)]
    rows = read(Path(path))
    problems = [_problem(row, grade) for row in rows]
    correct = [
        grade(problem, row.values["completion"])
        for problem, row in zip(problems, rows, strict=True)
    ]
    return Grades(tuple(row.values for row in rows), tuple(correct))


def _problem(row: Row, grade: Callable[[Problem, str], bool]) -> Problem:
    if row.fault:
        raise ValueError(f"{row.at}: {row.fault}")
    for name in COLUMNS:
        if row.values.get(name) is None:
            raise ValueError(
                f"{row.at}: no {name!r}; columns of this row: {', '.join(row.values)}"
                f"{nearest(name, row.values)}; needed: {', '.join(COLUMNS)}"
            )
    try:
        question, _ = (as_text(row.values, name) for name in COLUMNS[:2])
        assert question is not None
        problem = Problem(question, answer=as_text(row.values, "answer", numbers=True))
        if grade is numeric:
            reference(problem)
    except ValueError as error:
        raise ValueError(f"{row.at}: {error}") from error
    return problem
