"""4x4 Sudoku: the grids against brute force, answers out of loose text, the task."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autodidact.problem import Problem
from autodidact.tasks import grids
from autodidact.tasks import sudoku as task_file
from autodidact.tasks.grids import complete, solutions, valid
from autodidact.tasks.sudoku import problem, published, sudoku, tiny_sudoku
from autodidact.tasks.verify import verify
from toys import no_hang

SHARED = Path(__file__).parents[1] / "../shared/data"
PUZZLE, KEY = "4320004330100004", "4321124334122134"
ROW = problem(PUZZLE, KEY)
TINY = tiny_sudoku(train=300, test=100)
D1 = sudoku(empties=(6, 10), train=300, test=100)


def by_backtracking(puzzle: str) -> set[str]:
    """All valid completions, by trying digits cell by cell: knows nothing of the 288 grids."""
    place = puzzle.find("0")
    if place < 0:
        return {puzzle} if consistent(puzzle) else set()
    tries = (puzzle[:place] + digit + puzzle[place + 1 :] for digit in "1234")
    return set().union(*(by_backtracking(each) for each in tries if consistent(each)))


def consistent(cells: str) -> bool:
    """No digit twice in a row, column or box."""
    for i, j in itertools.combinations(range(16), 2):
        (a, b), (c, d) = divmod(i, 4), divmod(j, 4)
        if cells[i] == cells[j] != "0" and (
            a == c or b == d or (a // 2, b // 2) == (c // 2, d // 2)
        ):
            return False
    return True


def test_there_are_288_grids():
    assert len(complete()) == len(set(complete())) == 288
    assert set(complete()) == by_backtracking("0" * 16)


def test_solutions_are_those_of_backtracking():
    rng = random.Random(0)
    for _ in range(30):
        grid = rng.choice(complete())
        puzzle = "".join(cell if rng.random() < 0.45 else "0" for cell in grid)
        found = solutions(puzzle)
        assert set(found) == by_backtracking(puzzle) and grid in found
        assert grids.unique(puzzle) is (len(found) == 1)
    assert solutions("1100" + "0" * 12) == ()
    for bad in ("", "1" * 15, "5" + "0" * 15, "0" * 17, "\u0661" + "0" * 15):
        with pytest.raises(ValueError, match="no 4x4 puzzle"):
            solutions(bad)


def test_valid_and_faults_agree():
    assert valid(KEY, PUZZLE) and grids.faults(KEY, PUZZLE) == []
    other = next(grid for grid in complete() if grid[0] != "4")
    assert valid(other) and not valid(other, PUZZLE)
    assert grids.faults(other, PUZZLE)[0] == f"row 1, column 1 was given as 4, not {other[0]}"
    swapped = KEY[:2] + KEY[3] + KEY[2] + KEY[4:]
    assert not valid(swapped)
    assert grids.faults(swapped, "0" * 16) == ["column 3 holds 1413", "column 4 holds 2324"]
    assert grids.faults("123", PUZZLE) == ["3 characters; needed: 16 digits"]
    rng = random.Random(1)
    for _ in range(200):
        cells = list(rng.choice(complete()))
        cells[rng.randrange(16)] = rng.choice("01234")
        grid = "".join(cells)
        right = consistent(grid) and "0" not in grid
        assert valid(grid) is right is (grids.faults(grid, "0" * 16) == [])


LINES = "\n".join(KEY[i : i + 4] for i in (0, 4, 8, 12))
SPACED = "\n".join(" ".join(KEY[i : i + 4]) for i in (0, 4, 8, 12))


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (KEY, True),
        (f"\\boxed{{{KEY}}}", True),
        (f"\\text{{{KEY}}}.", True),
        (f"**{KEY}**", True),
        (f"The solution of {PUZZLE} is {KEY}", True),
        (LINES, True),
        (SPACED, True),
        (SPACED.replace("\n", " "), True),
        (LINES.replace("\n", " "), True),
        (LINES.replace("\n", ","), True),
        ("\n".join(f"| {line.replace(' ', ' | ')} |" for line in SPACED.split("\n")), True),
        ("\n---+---\n".join(SPACED.split("\n")), True),
        (SPACED.replace("\n", "\n\n"), True),
        ("\n".join(f"Row {n}: {line}" for n, line in enumerate(SPACED.split("\n"), 1)), True),
        ("\n".join(f"{n}. {line}" for n, line in enumerate(LINES.split("\n"), 1)), True),
        ("\n".join(f"R{n} {line}" for n, line in enumerate(LINES.split("\n"), 1)), True),
        ("\n".join(f"First row: {line}" for line in LINES.split("\n")), True),
        (str([list(map(int, line)) for line in LINES.split("\n")]), True),
        (SPACED.replace(" ", " & ").replace("\n", " \\\\ "), True),
        (KEY + "<|eot_id|><|endoftext|>", True),
        (f"{PUZZLE[:4]}\n{PUZZLE[4:8]}\n{PUZZLE[8:12]}\n{PUZZLE[12:]}\n\n{LINES}", True),
        (PUZZLE, False),
        (KEY + "1", False),
        (KEY[:-1], False),
        (KEY + KEY, False),
        (KEY[:8], False),
        (complete()[0], False),  # a valid grid that changes clues
        (KEY[:2] + KEY[3] + KEY[2] + KEY[4:], False),
        ("4321 1243 3412 213", False),
        ("4321\n1243\n3412\n21345", False),
        ("4321\n1243\n3412", False),
        ("no solution", False),
        ("", False),
    ],
)
def test_answers_of_one_puzzle(answer, right):
    for text in (
        f"<answer>\n{answer}\n</answer>",
        f"1. 43\n</reasoning>\n<<answer>{answer}",
        f"<answer>0</answer>\n<answer>{answer}",
    ):
        if answer or "<answer>0" not in text:
            assert task_file.correct(ROW, text) is right, text


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        (f"<answer>{PUZZLE}</answer><answer>{KEY}</answer>", True),
        (f"<answer>{KEY}</answer><answer>{PUZZLE}</answer>", False),
        (f"</answer>\n{KEY}", True),
        (f"<answer.\n{KEY}\n</answer", True),
        (f"so it is {KEY}", True),
        (f"the grid:\n{SPACED}\nis done", True),
        (f"<answer>\\boxed{{}}</answer> {KEY}", True),
        (f"<answer>[...]</answer>\n\\boxed{{{KEY}}}", True),
        ("row 1 is 4321, row 2 is 1243", False),
        ("", False),
    ],
)
def test_where_the_answer_stands(completion, right):
    assert task_file.correct(ROW, completion) is right


def test_any_valid_completion_is_right_and_only_the_key_is_paid_in_full():
    puzzle = KEY[:8] + "0" * 8
    others = [grid for grid in solutions(puzzle) if grid != KEY]
    row = problem(puzzle, KEY)
    assert len(others) == len(by_backtracking(puzzle)) - 1 > 0
    for grid in others:
        text = f"<answer>{grid}</answer>"
        assert task_file.correct(row, text)
        same = sum(a == b for a, b in zip(grid[8:], KEY[8:], strict=True))
        assert published(row, text) == same / 8 < 1


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        (KEY, 1.0),
        (KEY + "9", 1.0),
        (PUZZLE, 0.0),
        (KEY[:4], 1 / 8),
        ("4 3 2 1", 1 / 8),
        ("Row 1: 4321", 1 / 8),  # the label is a digit as well: 14321
        ("1" * 16, 3 / 8),
        ("none", 0.0),
    ],
)
def test_the_published_reward(answer, share):
    """The empty cells of the key are 1 12 34 2 213, that is 1, 1, 2, 4, 2, 2, 1, 3."""
    assert [KEY[i] for i in range(16) if PUZZLE[i] == "0"] == list("11242213")
    assert published(ROW, f"<answer>{answer}</answer>") == share
    assert published(ROW, f"<answer>{answer}") == 0.0
    assert D1.reward([ROW], [f"<answer>{KEY}</answer><answer>{answer}</answer>"]) == [share]
    assert TINY.reward([ROW], [answer]) == [share]
    with pytest.raises(ValueError, match="no key"):
        published(Problem(PUZZLE), KEY)


@pytest.mark.parametrize("task", [TINY, D1, sudoku(empties=12, train=20, test=10)])
def test_every_puzzle_has_one_solution_and_no_grid_is_in_both_splits(task):
    rows = [*task.train, *task.test]
    assert len({row.meta["puzzle"] for row in rows}) == len(rows)
    for row in rows:
        assert solutions(row.meta["puzzle"]) == (row.answer,)
        assert task.correct(row, row.solution) and task.final(row.solution) == row.answer
        assert task.feedback(row, row.solution) == f"{row.answer} is right."
    assert task.reward(rows, [row.solution for row in rows]) == [1.0] * len(rows)
    assert not {row.answer for row in task.train} & {row.answer for row in task.test}


def test_options():
    counts = {row.meta["puzzle"].count("0") for row in D1.train}
    assert counts == set(range(6, 11))
    assert {row.meta["puzzle"].count("0") for row in TINY.train} == {1, 2, 3, 4}
    assert TINY.train == tiny_sudoku(train=300, test=100).train
    assert TINY.train != tiny_sudoku(train=300, test=100, seed=1).train
    exact = sudoku(reward="exact", train=1, test=1)
    assert exact.reward([ROW] * 2, [f"\\boxed{{{KEY}}}", "<answer>4321</answer>"]) == [1.0, 0.0]
    assert len({row.answer for row in sudoku(test_grids=1, train=1, test=30).test}) == 1
    text = D1.prompt(ROW)[0]["content"]
    assert f"puzzle: {PUZZLE}\n" in text and "where '0' represents empty" in text
    row = TINY.test[0]
    assert TINY.told(row, "solution", "x")[0]["content"] == f"{row.question}\nsolution:\nx"
    assert D1.privileged(ROW)[0]["content"].count(KEY) == 1
    with pytest.raises(ValueError, match="no solution"):
        D1.privileged(Problem(PUZZLE))
    assert D1.feedback(ROW, "?") == "No grid of 16 digits was found in the answer."
    assert "row 4 holds 0004" in D1.feedback(ROW, PUZZLE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"empties": 0}, "empties"),
        ({"empties": 13}, "empties"),
        ({"empties": (5, 4)}, "empties"),
        ({"wording": "d2"}, "did you mean 'd1'"),
        ({"reward": "exakt"}, "did you mean 'exact'"),
        ({"train": 0, "test": 0}, "train"),
        ({"test_grids": 289}, "test_grids"),
        ({"test_grids": 288}, "only 0 were found on 0 grids"),
        ({"test_grids": 1, "empties": 1, "test": 17}, "only 16 were found on 1 grids"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        sudoku(**options)


def test_a_file_of_test_puzzles(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text(f"Puzzle,Solution\n{PUZZLE},{KEY}\n0000000000000000,{complete()[0]}\n")
    task = sudoku(path=path, train=40)
    assert [row.answer for row in task.test] == [KEY, complete()[0]] and len(task.train) == 40
    assert not {row.answer for row in task.train} & {KEY, complete()[0]}
    path.write_text(f"Puzzle,Solution\n{PUZZLE},{complete()[0]}\n")
    with pytest.raises(ValueError, match=r"test\.csv:2: .*does not solve"):
        sudoku(path=path)
    path.write_text(f"Puzzle,Key\n{PUZZLE},{KEY}\n")
    with pytest.raises(ValueError, match="needed: Puzzle, Solution"):
        sudoku(path=path)


def test_the_published_test_puzzles():
    path = SHARED / "sudoku/test.csv"
    if not path.is_file():
        pytest.skip(f"no data at {path}")
    rows = sudoku(path=path, train=20, test=500).test
    several = sum(not grids.unique(row.meta["puzzle"]) for row in rows)
    assert (len(rows), several, len({row.answer for row in rows})) == (500, 124, 229)
    assert {row.meta["puzzle"].count("0") for row in rows} == {8}


def test_verify(tmp_path):
    path = tmp_path / "a.jsonl"
    said = f'"question": "Solve: {PUZZLE}\\n", "completion": "<answer>{KEY}</answer>"'
    path.write_text(f'{{{said}, "truth": "{KEY}"}}\n{{{said}, "truth": {KEY}}}\n')
    assert verify(path, "sudoku").correct == (True, True)
    for row in (f'{said}, "truth": "123"', f'"question": "q", "completion": "", "truth": "{KEY}"'):
        path.write_text(f"{{{row}}}\n")
        with pytest.raises(ValueError, match=r"a\.jsonl:1: "):
            verify(path, "sudoku")


PIECES = [*"0123456789 \n|,.:[]{}<>/", "<answer>", "</answer>", "Row 1:", "\\boxed{", KEY, KEY[:4], "\u0663"]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
def test_noise_is_read_or_refused(text):
    found = grids.stated(text)
    assert found is None or (len(found) == 16 and set(found) <= set("0123456789"))
    assert task_file.correct(ROW, text) is (
        found is not None and consistent(found) and found == KEY
    )
    assert 0 <= published(ROW, text) <= 1


HOSTILE = ["1" * 50_000, "<answer>" * 6_000, "<" * 50_000, "\n" * 50_000, "1\n" * 25_000, "1234\n" * 10_000, "row 1 " * 8_000, ":" * 50_000, "a" * 50_000, "r" * 50_000 + ":", "(" * 50_000, "\\boxed{" * 7_000]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_wrong_and_hangs_nothing(text):
    with no_hang():
        for wrapped in (text, f"<answer>{text}</answer>", f"\\boxed{{{text}}}", f"{text}</answer>"):
            assert task_file.correct(ROW, wrapped) is False
            assert 0 <= published(ROW, wrapped) <= 1
