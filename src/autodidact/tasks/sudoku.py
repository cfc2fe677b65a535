"""4x4 Sudoku: 16 characters row by row, 0 for empty, answered by the 16 digits of the full grid.

    4320004330100004    answered by    4321124334122134

`correct` asks for a valid completion: rows, columns and 2x2 boxes hold 1 to 4, and no clue is
changed. Where a puzzle has several solutions, any of them is right. The published reward (d1,
arXiv 2504.12216) is another measure: the share of the empty cells that are as in the one key,
so that a wrong grid earns something and another valid solution loses. `grids` has the rules.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from autodidact.names import choose
from autodidact.problem import Problem, Task
from autodidact.tasks import grids, rows
from autodidact.tasks.asking import TERSE, Asking
from autodidact.tasks.tagged import tagged
from autodidact.tasks.values import as_text

Wording = Literal["d1", "terse"]
"""`"d1"`: the published prompt with tags; `"terse"`: the digits alone, for a tiny model."""
Grading = Literal["published", "exact"]

INSTRUCTION = """Please solve the following 4x4 Sudoku puzzle. The puzzle is provided as a \
16-character string reading left-to-right, top-to-bottom, where '0' represents empty cells.

Rules:
- Fill empty cells with digits 1-4
- Each row must contain digits 1-4 exactly once
- Each column must contain digits 1-4 exactly once
- Each 2x2 box must contain digits 1-4 exactly once

Important: Your solution must be a COMPLETE 16-character string with only the digits 1-4, \
representing your final solved grid.

Respond in this exact format:
<reasoning>
Your step-by-step solving process
</reasoning>
<answer>
[16-character solution string with no spaces or separators]
</answer>

Solve the following Sudoku puzzle: {puzzle}
"""
"""What `wording="d1"` asks (the paper's text)."""
REFERENCE = {
    "d1": "{question}\nHere is a reference solution:\n{solution}\n\n"
    "Now solve the puzzle yourself, step by step.",
    "terse": TERSE,
}
"""What a privileged teacher reads, by wording."""
_PUZZLE = re.compile(r"(?<![0-9])[0-4]{16}(?![0-9])")
_COLUMNS = ("Puzzle", "Solution")


def in_place(problem: Problem) -> list[str | None]:
    """The grid of a puzzle, cell by cell, with nothing in the empty ones."""
    return [None if cell == "0" else cell for cell in problem.meta["puzzle"]]


def sudoku(
    empties: int | tuple[int, int] = 8,
    wording: Wording = "d1",
    reward: Grading = "published",
    train: int = 2000,
    test: int = 256,
    test_grids: int = 88,
    seed: int = 0,
    path: str | Path | None = None,
    canvas: bool = False,
) -> Task:
    """Random 4x4 Sudoku puzzles with one solution each (d1, arXiv 2504.12216).

    Of the 288 complete grids, `test_grids` are for testing and the rest for training, so that
    no grid is in both splits (as in SPG, arXiv 2510.09541; d1's own splits share theirs).

    Args:
        empties: empty cells of a puzzle, a number or `(fewest, most)`, of 1 to 12.
        wording: see `Wording`. The terse question is the puzzle, its answer the grid.
        reward: `"published"` or `"exact"`, 1 if `correct` and else 0. In terse wording the whole
            completion stands for the tag.
        train, test: problems wanted, all distinct.
        test_grids: how many of the 288 grids are kept for the test problems.
        seed: of everything.
        path: a CSV of test problems, `Puzzle,Solution`; `test` is then the most that are read,
            and their solutions take the place of `test_grids`: no training puzzle has one of them.
        canvas: for masked models: the grid itself is the completion, its clues are given, and
            there is no prompt. In terse wording only.

    Returns:
        A `Task`; `meta` of each problem holds `puzzle`, `answer` is the key.

    Raises:
        ValueError: an option out of range, fewer distinct puzzles than asked for, or a row of
            `path` that is no puzzle with its solution.
    """
    fewest, most = (empties, empties) if isinstance(empties, int) else empties
    _check(fewest, most, train, test, test_grids)
    choose("wording", wording, get_args(Wording))
    choose("reward", reward, get_args(Grading))
    if canvas and wording != "terse":
        raise ValueError(f"canvas=True with wording={wording!r}: a bare grid has no words")
    rng = random.Random(seed)
    held_out = [] if path is None else _from_file(Path(path), wording)[:test]
    kept = {problem.answer for problem in held_out}
    shuffled = rng.sample(grids.complete(), len(grids.complete()))
    cut = 0 if path is not None else test_grids
    ours = [grid for grid in shuffled[cut:] if grid not in kept]
    problems = _problems(rng, ours, fewest, most, train, wording)
    if path is None:
        held_out = _problems(rng, shuffled[:cut], fewest, most, test, wording)

    asking = Asking(REFERENCE[wording])

    def graded(problems: Sequence[Problem], completions: Sequence[str]) -> list[float | None]:
        pairs = zip(problems, completions, strict=True)
        if reward == "exact":
            return [float(correct(problem, text)) for problem, text in pairs]
        return [published(problem, text, bare=wording == "terse") for problem, text in pairs]

    return Task(
        "sudoku",
        train=problems,
        test=held_out,
        prompt=(lambda problem: []) if canvas else asking.prompt,
        privileged=asking.privileged,
        correct=correct,
        reward=graded,
        final=grids.stated,
        told=asking.told if wording == "terse" else None,
        feedback=feedback,
        canvas=in_place if canvas else None,
    )


def tiny_sudoku(train: int = 2000, test: int = 500, seed: int = 0) -> Task:
    """The setting for a tiny model: 1 to 4 empty cells, terse wording."""
    return sudoku(empties=(1, 4), wording="terse", train=train, test=test, seed=seed)


def problem(puzzle: str, key: str, wording: Wording = "d1") -> Problem:
    """The problem of one puzzle; `ValueError` if the key is no solution of it."""
    if not grids.valid(key, puzzle):
        raise ValueError(f"{key[:40]!r} does not solve {puzzle}; allowed: a complete grid")
    if wording == "terse":
        return Problem(puzzle, key, key, {"puzzle": puzzle})
    solution = f"<answer>\n{key}\n</answer>"
    return Problem(INSTRUCTION.format(puzzle=puzzle), solution, key, {"puzzle": puzzle})


def correct(problem: Problem, completion: str) -> bool:
    """Whether a completion answers with a valid completion of the puzzle, the key or another."""
    found = grids.stated(completion)
    return found is not None and grids.valid(found, asked(problem))


def published(problem: Problem, completion: str, bare: bool = False) -> float:
    """The reward of d1: the share of empty cells that are as in the key; 0 without digits.

    Read are the digits in the last `<answer>...</answer>`, or with `bare` all of them.
    """
    text = completion if bare else tagged(completion)
    digits = "".join(re.findall("[0-9]", text or ""))
    if problem.answer is None:
        raise ValueError(f"no key to compare with: {problem.question[:60]!r}")
    return grids.share(digits, asked(problem), problem.answer) if digits else 0.0


def feedback(problem: Problem, completion: str) -> str:
    """What the rules say about a completion."""
    found = grids.stated(completion)
    if found is None:
        return "No grid of 16 digits was found in the answer."
    wrong = grids.faults(found, asked(problem))
    return f"{found} is wrong: {'; '.join(wrong)}." if wrong else f"{found} is right."


def asked(problem: Problem) -> str:
    """The puzzle of a problem: from `meta`, else the last 16 digits from 0 to 4 in the question.

    Raises:
        ValueError: there is none.
    """
    if "puzzle" in problem.meta:
        return problem.meta["puzzle"]
    found = _PUZZLE.findall(problem.question)
    if not found:
        raise ValueError(f"no 4x4 puzzle in {problem.question[-60:]!r}; needed: 16 digits 0 to 4")
    return found[-1]


def from_truth(question: str, truth: Any) -> Problem:
    """The problem of a row: a question with the puzzle in it, and the key; `ValueError` if not."""
    puzzle, key = asked(Problem(question)), str(truth).strip()
    return replace(problem(puzzle, key), question=question)


def _problems(
    rng: random.Random, keys: Sequence[str], fewest: int, most: int, wanted: int, wording: Wording
) -> list[Problem]:
    """Distinct puzzles, their solutions among `keys`."""
    found: dict[str, str] = {}
    for _ in range(20 * wanted + 100):
        if len(found) == wanted or not keys:
            break
        key = rng.choice(keys)
        puzzle = grids.dig(rng, key, rng.randint(fewest, most))
        if puzzle is not None:
            found[puzzle] = key
    if len(found) < wanted:
        raise ValueError(
            f"{wanted} puzzles with {fewest} to {most} empty cells were asked for, but only "
            f"{len(found)} were found on {len(keys)} grids; ask for fewer, or other `empties`"
        )
    return [problem(puzzle, key, wording) for puzzle, key in found.items()]


def _from_file(path: Path, wording: Wording) -> list[Problem]:
    problems = []
    for row in rows.read(path):
        try:
            if row.fault:
                raise ValueError(row.fault)
            puzzle, key = (as_text(row.values, name) for name in _COLUMNS)
            if puzzle is None or key is None:
                raise ValueError(f"columns {', '.join(row.values)}; needed: {', '.join(_COLUMNS)}")
            problems.append(problem(puzzle, key, wording))
        except ValueError as error:
            raise ValueError(f"{row.at}: {error}") from error
    return problems


def _check(fewest: int, most: int, train: int, test: int, test_grids: int) -> None:
    if not 1 <= fewest <= most <= 12:
        raise ValueError(f"empties={fewest, most}; allowed: a number or (fewest, most), 1 to 12")
    if train < 0 or test < 0 or train + test == 0:
        raise ValueError(f"train={train}, test={test}; allowed: 0 or more, and not both 0")
    if not 0 <= test_grids <= 288:
        raise ValueError(f"test_grids={test_grids}; allowed: 0 to 288")
