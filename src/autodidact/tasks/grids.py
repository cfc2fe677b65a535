"""4x4 Sudoku grids as strings of 16 characters, row by row; 0 is an empty cell.

    3102200002100320 -> 3142243142131324

There are exactly 288 complete grids. A grid is a number from 0 to 287 here, and a set of them a
288-bit integer, so that the completions of a puzzle are one `&` per clue.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import permutations

from autodidact.tasks.tagged import blank, official, readable

CELLS = 16
ROWS = tuple(range(4 * row, 4 * row + 4) for row in range(4))
COLUMNS = tuple(range(column, CELLS, 4) for column in range(4))
BOXES = tuple(
    tuple(4 * row + column for row in (top, top + 1) for column in (left, left + 1))
    for top in (0, 2)
    for left in (0, 2)
)
UNITS: tuple[tuple[str, Sequence[int]], ...] = tuple(
    (f"{name} {number}", cells)
    for name, group in (("row", ROWS), ("column", COLUMNS), ("box", BOXES))
    for number, cells in enumerate(group, 1)
)
"""The 12 groups of cells that hold each digit once, by name."""

TRIES = 1000
"""Orders of removing clues that are tried for one puzzle."""

_GRID = re.compile(r"(?<![0-9])[0-9]{16}(?![0-9])")
_LABEL = re.compile(
    r"^\W{0,8}(?:(?:row|line|r)\s{0,4}[1-4]\b|[1-4][.)]\s|[^:\n]{0,30}[a-z][^:\n]{0,30}:)",
    re.IGNORECASE,
)


@cache
def complete() -> tuple[str, ...]:
    """All 288 complete grids, in order."""
    rows = ["".join(row) for row in permutations("1234")]
    halves = [a + b for a in rows for b in rows if len({*a[:2], *b[:2]}) == 4]
    return tuple(top + bottom for top in halves for bottom in halves if _fits(top + bottom))


def solutions(puzzle: str) -> tuple[str, ...]:
    """The complete grids that agree with the clues of a puzzle; `ValueError` if it is none."""
    bits = _completions(checked(puzzle))
    return tuple(grid for place, grid in enumerate(complete()) if bits >> place & 1)


def unique(puzzle: str) -> bool:
    """Whether a puzzle has exactly one solution."""
    return _completions(checked(puzzle)).bit_count() == 1


def valid(grid: str, puzzle: str = "0" * CELLS) -> bool:
    """Whether a grid is complete, keeps the rules, and leaves the clues of a puzzle as they are."""
    checked(puzzle)
    return grid in _places() and all(
        clue in ("0", cell) for clue, cell in zip(puzzle, grid, strict=True)
    )


def faults(grid: str, puzzle: str) -> list[str]:
    """What is wrong with 16 digits as an answer, in words; empty if they are `valid`."""
    checked(puzzle)
    if not re.fullmatch("[0-9]{16}", grid):
        return [f"{len(grid)} characters; needed: 16 digits"]
    found = [
        f"row {cell // 4 + 1}, column {cell % 4 + 1} was given as {puzzle[cell]}, not {grid[cell]}"
        for cell in range(CELLS)
        if puzzle[cell] not in ("0", grid[cell])
    ]
    for name, cells in UNITS:
        held = "".join(grid[cell] for cell in cells)
        if sorted(held) != list("1234"):
            found.append(f"{name} holds {held}")
    return found


def share(given: str, puzzle: str, key: str) -> float:
    """The share of the empty cells of a puzzle that are as in its key; 0 if none is empty.

    Digits too few are filled up with 0, those too many are cut off (d1, arXiv 2504.12216).
    """
    given = given[:CELLS].ljust(CELLS, "0")
    empty = [cell for cell in range(CELLS) if puzzle[cell] == "0"]
    return sum(given[cell] == key[cell] for cell in empty) / len(empty) if empty else 0.0


def checked(puzzle: str) -> str:
    """A puzzle of 16 digits from 0 to 4; `ValueError` for anything else."""
    if not re.fullmatch("[0-4]{16}", puzzle):
        raise ValueError(f"{puzzle[:40]!r} is no 4x4 puzzle; allowed: 16 digits from 0 to 4")
    return puzzle


def dig(rng: random.Random, grid: str, empties: int) -> str | None:
    """A puzzle with this grid as its only solution, or `None` if none was found.

    Cells are emptied in a random order, those apart that the solution hangs on.
    """
    for _ in range(TRIES):
        cells, left = list(grid), empties
        for cell in rng.sample(range(CELLS), CELLS):
            if left == 0:
                break
            cells[cell] = "0"
            if unique("".join(cells)):
                left -= 1
            else:
                cells[cell] = grid[cell]
        if left == 0:
            return "".join(cells)
    return None


def stated(completion: str) -> str | None:
    """The grid a completion answers with, as 16 digits; `None` if it has none.

    Read where `tagged.official` finds the answer, else in the whole text: the last 16 digits in
    one piece, else the last four lines of four digits, else all digits of the answer if they are
    16. Blanks, commas, bars and brackets between the digits do not matter, nor do labels such as
    `Row 1:`.
    """
    part = official(completion)
    text = readable(completion) if part is None else part
    if found := _GRID.findall(text):
        return found[-1]
    if rows := _last_rows(text):
        return rows
    digits = _digits(text)
    return digits if part is not None and len(digits) == CELLS else None


def _last_rows(text: str) -> str | None:
    lines = [_digits(_LABEL.sub("", line)) for line in text.splitlines() if not blank(line)]
    lines = [line for line in lines if line]
    for end in range(len(lines), 3, -1):
        block = lines[end - 4 : end]
        if all(len(line) == 4 for line in block):
            return "".join(block)
    return None


def _digits(text: str) -> str:
    return "".join(re.findall("[0-9]", text))


def _fits(grid: str) -> bool:
    return all(len({grid[cell] for cell in cells}) == 4 for _, cells in UNITS)


@cache
def _places() -> dict[str, int]:
    return {grid: place for place, grid in enumerate(complete())}


@cache
def _with_clue() -> dict[tuple[int, str], int]:
    """The grids that have a digit in a cell, as bits."""
    return {
        (cell, digit): sum(1 << place for grid, place in _places().items() if grid[cell] == digit)
        for cell in range(CELLS)
        for digit in "1234"
    }


def _completions(puzzle: str) -> int:
    bits = (1 << len(complete())) - 1
    for clue in _clues(puzzle):
        bits &= _with_clue()[clue]
    return bits


def _clues(puzzle: str) -> Iterator[tuple[int, str]]:
    return ((cell, digit) for cell, digit in enumerate(puzzle) if digit != "0")
