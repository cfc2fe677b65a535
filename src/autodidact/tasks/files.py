r"""A task from the user's own data.

    from_file("problems.jsonl")
    from_file("openai/gsm8k", config="main")
    from_file("data.csv", columns="question=problem,solution=rationale,answer=final")

A row needs a question. Its solution is what a self-teacher may read, its answer what a verifier
compares with; either may be missing. Whatever is wrong with the data is a `ValueError` that names
file and line, before any model is loaded.

In GSM8K's format, where a worked text ends in `#### n`, the text is the solution and `n` the
answer. Without a column for the answer, it is what the solution states after `####` or in
`\boxed{}`. A solution that does not state its final answer gets a closing sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from autodidact.names import choose
from autodidact.problem import Message, Problem, Task
from autodidact.tasks import rows as data
from autodidact.tasks.problems import ROLES, problems_of
from autodidact.tasks.rejected import report
from autodidact.tasks.rows import Row
from autodidact.tasks.splits import count, divide
from autodidact.tasks.verifiers import VERIFIERS, reference

INSTRUCTION = r"Reason step by step, and put your final answer within \boxed{}."
"""What follows a question, for the student and the teacher."""
PRIVILEGED = """{question}

A reference solution stands between the two markers.
=== Reference solution begins ===
{solution}
=== Reference solution ends ===

Now solve the problem yourself. Do not paraphrase or quote the reference: once you see why it \
works, derive the answer in your own words. Explore, check every step, and go back where a step \
does not hold.
{instruction}"""
"""What a teacher reads who may see the solution."""


def from_file(
    path: str | Path,
    *,
    columns: str | Mapping[str, str] | None = None,
    test_file: str | Path | None = None,
    test: float | None = None,
    train: int | None = None,
    split: str = "train",
    config: str | None = None,
    verifier: Literal["auto", "numeric", "mathematics", "exact"] = "auto",
    instruction: str = INSTRUCTION,
    closing: bool = True,
    duplicates: Literal["refuse", "keep"] = "refuse",
    skip_bad_rows: bool = False,
    rejected: str | Path | None = None,
    seed: int = 0,
) -> Task:
    """A task from JSONL, JSON, CSV, TSV or Parquet, a folder, or a data set of the hub.

    Args:
        path: a file; a folder with `train.jsonl` (or `.csv`, ...) and perhaps `test.jsonl`; a
            folder that the library `datasets` loads; or a hub name (`openai/gsm8k`).
        columns: which column holds what, `"question=problem,answer=final"` or a mapping. A role
            that is not named is in the column of its own name.
        test_file: held-out problems. Otherwise the test split that comes with `path`, and
            otherwise a part of its problems, chosen by `seed` and each question's text alone.
        test: how many problems to hold out: a share below 1, or a number. By default all of a
            test file or split, or 0.1.
        train: how many problems to train on, the first ones; all by default.
        split, config: of a folder or hub data set.
        verifier: how answers are compared. `"auto"`: as numbers if all of them are, otherwise as
            mathematics.
        instruction: what follows each question.
        closing: whether a solution that does not state its final answer gets a closing sentence
            (`problems.CLOSING`).
        duplicates: what to do with a question that comes twice, or an `id` (a column of that
            name) that does in one file. `"keep"` suits data with several solutions a question; a
            question is held out with all of its rows.
        skip_bad_rows: go on without rows that cannot be used, with a warning.
        rejected: as `skip_bad_rows`, and a new file to write these rows to, one JSON object a
            line: `at`, `reason`, `row`. It is written whole or not at all, and never over another.
        seed: of the choice of held-out problems.

    Returns:
        The task. `Problem.meta` holds all columns of the row by their own names, and `_at`, its
        place. `correct` is missing if no row has an answer.

    Raises:
        ValueError: data that cannot be used, with file, line, what was found and what is allowed.
    """
    choose("duplicates", duplicates, ("refuse", "keep"))
    choose("verifier", verifier, ("auto", *VERIFIERS))
    mapping = _columns(columns)
    rows, held_out = data.sources(str(path), split, config)
    if test_file is not None:
        held_out, _ = data.sources(str(test_file), split, config)

    bad: list[tuple[Row, str]] | None = [] if skip_bad_rows or rejected is not None else None
    grade = VERIFIERS.get(verifier)
    seen: dict[str, str] = {}
    kept_out = problems_of(held_out, mapping, closing, grade, duplicates, seen, bad)
    problems = problems_of(rows, mapping, closing, grade, duplicates, seen, bad, len(kept_out) > 0)
    if bad:
        report(bad, rejected)
    for name, read, usable in ((path, rows, problems), (test_file or path, held_out, kept_out)):
        if read and not usable:
            raise ValueError(f"{name}: none of {len(read)} rows can be used; see the reasons above")
    if held_out is None:
        problems, kept_out = divide(problems, 0.1 if test is None else test, seed, str(path))
    elif test is not None:
        kept_out = kept_out[: count(test, len(kept_out), "test", str(test_file or path))]
    if train is not None:
        problems = problems[: count(train, len(problems), "train", str(path))]

    def prompt(problem: Problem) -> list[Message]:
        return [{"role": "user", "content": f"{problem.question}\n\n{instruction}".rstrip()}]

    def privileged(problem: Problem) -> list[Message]:
        if problem.solution is None:
            place = problem.meta.get("_at", repr(problem.question[:60]))
            raise ValueError(f"{place}: no solution, which a privileged teacher has to read")
        text = PRIVILEGED.format(
            question=problem.question, solution=problem.solution, instruction=instruction
        )
        return [{"role": "user", "content": text.rstrip()}]

    answered = [problem for problem in (*problems, *kept_out) if problem.answer is not None]
    grade = grade or VERIFIERS["numeric" if all(map(_is_number, answered)) else "mathematics"]
    return Task(
        _name(path),
        train=problems,
        test=kept_out,
        prompt=prompt,
        privileged=privileged,
        correct=grade.correct if answered else None,
        final=grade.final if answered else None,
    )


def _columns(given: str | Mapping[str, str] | None) -> dict[str, str]:
    """Role -> column, the named roles only."""
    if isinstance(given, str):
        pairs = [part.partition("=")[::2] for part in given.split(",")]
    else:
        pairs = list((given or {}).items())
    mapping: dict[str, str] = {}
    for role, column in ((role.strip(), column.strip()) for role, column in pairs):
        choose("column role", role, ROLES)
        if not column or role in mapping:
            raise ValueError(
                f"columns={given!r}: {role!r} {'is named twice' if column else 'has no column'}; "
                "allowed: question=NAME,solution=NAME,answer=NAME"
            )
        mapping[role] = column
    return mapping


def _is_number(problem: Problem) -> bool:
    try:
        reference(problem)
    except ValueError:
        return False
    return True


def _name(path: str | Path) -> str:
    place = Path(path)
    if not place.exists():
        return place.name
    place = place.resolve()
    return place.parent.name if place.stem in ("train", "data") else place.stem
