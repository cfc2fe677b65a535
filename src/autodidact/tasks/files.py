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

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from autodidact.names import choose, nearest
from autodidact.problem import Message, Problem, Task
from autodidact.tasks import rows as data
from autodidact.tasks.answers import canonical, gold, stated
from autodidact.tasks.rows import Row
from autodidact.tasks.verifiers import VERIFIERS, Verifier, reference

INSTRUCTION = r"Reason step by step, and put your final answer within \boxed{}."
"""What follows a question, for the student and the teacher."""
CLOSING = r"The final answer is \boxed{%s}."
"""What ends a solution that does not state its final answer."""
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

ROLES = ("question", "solution", "answer")


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
        closing: whether a solution that does not state its final answer gets `CLOSING`.
        duplicates: what to do with a question that comes twice. `"keep"` suits data with several
            solutions a question; a question is held out with all of its rows.
        skip_bad_rows: go on without rows that cannot be used, with a warning.
        rejected: file to write these rows to, one JSON object a line: `at`, `reason`, `row`.
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
    kept_out = _problems(held_out, mapping, closing, grade, duplicates, seen, bad)
    problems = _problems(rows, mapping, closing, grade, duplicates, seen, bad, len(kept_out) > 0)
    if bad:
        _report(bad, rejected)
    for name, read, usable in ((path, rows, problems), (test_file or path, held_out, kept_out)):
        if read and not usable:
            raise ValueError(f"{name}: none of {len(read)} rows can be used; see the reasons above")
    if held_out is None:
        problems, kept_out = _divide(problems, 0.1 if test is None else test, seed, str(path))
    elif test is not None:
        kept_out = kept_out[: _count(test, len(kept_out), "test", str(test_file or path))]
    if train is not None:
        problems = problems[: _count(train, len(problems), "train", str(path))]

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


def _problems(
    rows: Sequence[Row] | None,
    mapping: Mapping[str, str],
    closing: bool,
    grade: Verifier | None,
    duplicates: str,
    seen: dict[str, str],
    bad: list[tuple[Row, str]] | None,
    apart: bool = False,
) -> list[Problem]:
    """The problems of rows. Bad rows go to `bad`, or are raised where that is `None`.

    `seen` maps the questions so far to their places; with `apart`, those are held out and a
    question among them is refused also where duplicates are kept.
    """
    if rows is None:
        return []
    before = frozenset(seen) if apart else frozenset()
    roles, problems = None, []
    for row in rows:
        try:
            if row.fault:
                raise ValueError(row.fault)
            if roles is None:
                roles = _roles(rows, mapping)
            problem = _problem(row, roles, closing, grade)
            key = " ".join(problem.question.split())
            if key in before:
                raise ValueError(
                    f"this question is held out at {seen[key]}; allowed: no question in both"
                )
            if key in seen and duplicates == "refuse":
                raise ValueError(
                    f"the same question as at {seen[key]}; allowed: each question once, or "
                    "duplicates='keep'"
                )
        except ValueError as error:
            if bad is None or isinstance(error, _WholeFileError):
                raise ValueError(f"{row.at}: {error}") from error
            bad.append((row, str(error)))
        else:
            seen.setdefault(key, row.at)
            problems.append(problem)
    return problems


class _WholeFileError(ValueError):
    """A fault of the whole file, which no skipping of rows removes."""


def _roles(rows: Sequence[Row], mapping: Mapping[str, str]) -> dict[str, str]:
    """Role -> column, for the roles that the rows have."""
    present = list(dict.fromkeys(name for row in rows for name in row.values))
    for role in ROLES:
        column = mapping.get(role, role)
        if column not in present and (role in mapping or role == "question"):
            raise _WholeFileError(
                f"no column {column!r} for the {role}; columns present: "
                f"{', '.join(map(str, present)) or 'none'}{nearest(column, present)}; "
                f"name it with columns='{role}=NAME'"
            )
    return {role: column for role in ROLES if (column := mapping.get(role, role)) in present}


def _problem(row: Row, roles: Mapping[str, str], closing: bool, grade: Verifier | None) -> Problem:
    question = data.as_text(row.values, roles["question"])
    if question is None or not question.strip():
        found = (
            "missing"
            if roles["question"] not in row.values
            else "null"
            if question is None
            else "empty"
        )
        raise ValueError(f"no question: column {roles['question']!r} is {found}; allowed: text")
    solution = data.as_text(row.values, roles["solution"]) if "solution" in roles else None
    answer = data.as_text(row.values, roles["answer"], numbers=True) if "answer" in roles else None
    solution, answer = _split(solution, answer)
    if closing and solution and answer and not _states(solution, answer):
        solution = f"{solution}\n{CLOSING % answer}"
    problem = Problem(question, solution, answer, {**row.values, "_at": row.at})
    if grade is VERIFIERS["numeric"] and answer is not None:
        reference(problem)
    return problem


def _split(solution: str | None, answer: str | None) -> tuple[str | None, str | None]:
    """Solution and answer, told apart; empty ones are `None`."""
    solution, answer = ((text or "").strip() for text in (solution, answer))
    if "####" in answer:
        worked, _, answer = (part.strip() for part in answer.rpartition("####"))
        solution = solution or worked
        if not answer:
            raise ValueError("nothing stands after ####; allowed: a worked text, ####, the answer")
    if solution and not answer and (last := gold(solution)) != solution:
        answer = last
        solution = solution.rpartition("####")[0].strip() or solution
    return solution or None, answer or None


def _states(solution: str, answer: str) -> bool:
    last = stated(solution)
    return solution == answer or (last is not None and canonical(last) == canonical(answer))


def _is_number(problem: Problem) -> bool:
    try:
        reference(problem)
    except ValueError:
        return False
    return True


def _divide(
    problems: list[Problem], test: float, seed: int, path: str
) -> tuple[list[Problem], list[Problem]]:
    """Problems to train on and to hold out, in the order of the file, questions kept together."""
    keys = [" ".join(problem.question.split()) for problem in problems]
    order = sorted(dict.fromkeys(keys), key=lambda key: _digest(f"{seed}:{key}"))
    count = _count(test, len(order), "test", path)
    if count >= len(order):
        raise ValueError(
            f"{path}: test={test} holds out all {len(order)} questions; allowed: fewer, or a "
            "test_file, or test=0"
        )
    chosen = set(order[:count])
    pairs = list(zip(problems, keys, strict=True))
    return [p for p, key in pairs if key not in chosen], [p for p, key in pairs if key in chosen]


def _count(wanted: float, available: int, option: str, path: str) -> int:
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


def _report(bad: Sequence[tuple[Row, str]], rejected: str | Path | None) -> None:
    if rejected is not None:
        with Path(rejected).open("w", encoding="utf-8") as file:
            for row, reason in bad:
                line = {"at": row.at, "reason": reason, "row": row.values}
                file.write(json.dumps(line, default=str) + "\n")
    row, reason = bad[0]
    written = f" (written to {rejected})" if rejected is not None else ""
    warnings.warn(
        f"{len(bad)} bad rows skipped{written}; the first: {row.at}: {reason}", stacklevel=3
    )


def _name(path: str | Path) -> str:
    place = Path(path)
    if not place.exists():
        return place.name
    place = place.resolve()
    return place.parent.name if place.stem in ("train", "data") else place.stem
