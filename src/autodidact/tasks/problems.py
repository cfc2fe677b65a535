"""Problems out of rows of user data: which column holds what, and what no problem is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autodidact.names import nearest
from autodidact.problem import Problem
from autodidact.tasks.answers import canonical, gold, stated
from autodidact.tasks.rows import Row
from autodidact.tasks.values import as_text, named
from autodidact.tasks.verifiers import VERIFIERS, Verifier, reference

ROLES = ("question", "solution", "answer")
CLOSING = r"The final answer is \boxed{%s}."
"""What ends a solution that does not state its final answer."""


def problems_of(
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
    ids: dict[str, str] = {}
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
            mark = repr(row.values.get("id"))
            if mark in ids and duplicates == "refuse":
                raise ValueError(
                    f"the same id {mark:.60} as at {ids[mark]}; allowed: each id once, or "
                    "duplicates='keep'"
                )
        except ValueError as error:
            if bad is None or isinstance(error, _WholeFileError):
                raise ValueError(f"{row.at}: {error}") from error
            bad.append((row, str(error)))
        else:
            seen.setdefault(key, row.at)
            if mark != "None":
                ids[mark] = row.at
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
                f"{named(present)}{nearest(column, present)}; "
                f"name it with columns='{role}=NAME'"
            )
    return {role: column for role in ROLES if (column := mapping.get(role, role)) in present}


def _problem(row: Row, roles: Mapping[str, str], closing: bool, grade: Verifier | None) -> Problem:
    question = as_text(row.values, roles["question"])
    if question is None or not question.strip():
        found = (
            "missing"
            if roles["question"] not in row.values
            else "null"
            if question is None
            else "empty"
        )
        raise ValueError(f"no question: column {roles['question']!r} is {found}; allowed: text")
    solution = as_text(row.values, roles["solution"]) if "solution" in roles else None
    answer = as_text(row.values, roles["answer"], numbers=True) if "answer" in roles else None
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
