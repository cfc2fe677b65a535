"""Our grading of outputs of LLaDA-8B-Instruct against a plain reading of them.

The outputs are loose: boxes and tags that stay open, misspelt tags, an empty box after a worked
answer. All of them were read (the 37 of Countdown and Sudoku whole, the others from their final
answer back as far as it took), and `plain` is that reading, written down without our verifiers. A
disagreement has to be explained in `EXPLAINED`, or the test fails.

The published accuracies of this model at this length, on the full test sets, are Countdown 19.5
and Sudoku 6.7 (d1, arXiv 2504.12216; that of Sudoku counts cells, not grids).
"""

from __future__ import annotations

import ast
import json
import operator
import re
from fractions import Fraction
from pathlib import Path

import pytest

from autodidact.tasks import grids, puzzles, sudoku
from autodidact.tasks.verify import verify

FOLDER = Path(__file__).parents[1] / "../shared/data/llada"
TASK = {"countdown": "countdown", "sudoku": "sudoku", "gsm8k": "gsm8k", "math500": "math"}
SIGNS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}  # fmt: skip

SWAP = str.maketrans("12", "21")
COUNTDOWN_BY_HAND = {34: "83 - 72 + 16"}
"""Line -> what the text says, where the final box is empty: "the expression 83-72+16 evaluates to
exactly 27"."""
MATH_RIGHT = {2, 3, 5, 12, 13, 14, 15, 17, 20, 21, 24, 25, 29, 37, 38, 41, 46, 47, 50, 52, 54, 55, 61, 62, 65, 67, 68, 69, 74, 76}  # fmt: skip
"""Lines of math500 whose answer a reader takes to be the truth. 12 is 15.975 for 639/40, 25 is 3/24
for 1/8, and the box of 24 is empty after "the smallest possible value of c is pi"."""

EXPLAINED: dict[tuple[str, int], str] = {
    ("math500", 24): "right by the text, which calls it a value and no answer; the box is empty",
}
"""`(file, line) -> why our grade differs from the plain reading`."""


def rows(name: str) -> list[dict]:
    path = FOLDER / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"no data at {path}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def python_value(text: str) -> Fraction:
    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        return SIGNS[type(node.op)](walk(node.left), walk(node.right))

    return walk(ast.parse(text.strip(), mode="eval").body)


def last_box(completion: str) -> str:
    """The inside of the last box, to its brace or a stray `<` or `>`; as a reader's eye does it."""
    found = re.findall(r"boxed\{([^{}<>]*)", completion)
    return found[-1].strip() if found else ""


def plain_countdown(line: int, row: dict) -> bool:
    numbers, target = row["truth"]
    text = COUNTDOWN_BY_HAND.get(line) or last_box(row["completion"]).replace("\\div", "/")
    used = sorted(map(int, re.findall(r"[0-9]+", text)))
    return used == sorted(numbers) and python_value(text) == target


def plain_sudoku(line: int, row: dict) -> bool:
    """Every row of digits after the last word `answer` that opens a tag, as a grid."""
    clues = re.findall(r"[0-9]{16}", row["question"])[-1]
    tail = re.split(r"<[^/\n]{0,3}\n?answer", row["completion"])[-1].split("</")[0]
    digits = re.sub(r"[^0-9]", "", tail)
    if len(digits) != 16 or any(c not in ("0", d) for c, d in zip(clues, digits, strict=True)):
        return False
    cells = {(i // 4, i % 4): digit for i, digit in enumerate(digits)}
    groups = [[cells[r, c] for c in range(4)] for r in range(4)]
    groups += [[cells[r, c] for r in range(4)] for c in range(4)]
    groups += [
        [cells[r + a, c + b] for a in (0, 1) for b in (0, 1)] for r in (0, 2) for c in (0, 2)
    ]
    return all(set(group) == set("1234") for group in groups)


def plain_gsm8k(line: int, row: dict) -> bool:
    text = last_box(row["completion"]) or re.split("<answer>", row["completion"])[-1]
    found = re.findall(r"-?[0-9]+(?:\.[0-9]+)?", text.replace(",", ""))
    return len(found) == 1 and float(found[0]) == row["truth"]


def plain_math500(line: int, row: dict) -> bool:
    return line in MATH_RIGHT


PLAIN = {
    "countdown": plain_countdown,
    "sudoku": plain_sudoku,
    "gsm8k": plain_gsm8k,
    "math500": plain_math500,
}
COUNTS = {"countdown": (37, 9), "sudoku": (37, 0), "gsm8k": (205, 164), "math500": (84, 30)}
"""Rows, and how many of them the plain reading finds right."""


@pytest.mark.parametrize("name", PLAIN)
def test_every_disagreement_with_a_plain_reading_is_explained(name, capsys):
    outputs = rows(name)
    ours = verify(FOLDER / f"{name}.jsonl", TASK[name]).correct
    plain = [PLAIN[name](line, row) for line, row in enumerate(outputs, 1)]
    different = [
        line for line, pair in enumerate(zip(ours, plain, strict=True), 1) if pair[0] != pair[1]
    ]
    with capsys.disabled():
        print(
            f"\n{name}: {len(ours)} rows, right by the verifier {sum(ours)}, plainly {sum(plain)}"
        )
        for line in different:
            print(f"  line {line}: {EXPLAINED.get((name, line), 'NOT EXPLAINED')}")
    assert (len(plain), sum(plain)) == COUNTS[name]
    assert {(name, line) for line in different} <= EXPLAINED.keys()


def test_the_comparison_can_fail():
    """One digit more or less in a right answer is wrong, by both readings."""
    for row in rows("countdown"):
        problem = puzzles.from_truth(row["question"], row["truth"])
        if puzzles.correct(problem, row["completion"]):
            worse = re.sub(r"([0-9]) - ([0-9])", r"\1 - 1\2", row["completion"])
            assert not puzzles.correct(problem, worse)
    for row in rows("sudoku"):
        problem = sudoku.from_truth(row["question"], row["truth"])
        tag = re.sub(r"(?s)<answer.*", f"<answer>{row['truth']}</answer>", row["completion"])
        if "<answer>" in tag:
            assert sudoku.correct(problem, tag)
            assert not sudoku.correct(problem, tag.replace(row["truth"], row["truth"][1:]))
            assert not sudoku.correct(
                problem, tag.replace(row["truth"], row["truth"].translate(SWAP))
            )


def test_the_published_measures_on_this_sample(capsys):
    """Cells of Sudoku, and d1's reward of Countdown, which asks for bare arithmetic in the tag."""
    outputs = rows("sudoku")
    made = [sudoku.from_truth(row["question"], row["truth"]) for row in outputs]
    pairs = list(zip(made, outputs, strict=True))
    cells = sum(sudoku.published(problem, row["completion"]) for problem, row in pairs) / len(pairs)
    full = sum(grids.stated(row["completion"]) is not None for row in outputs)
    strict = [
        puzzles.published(puzzles.from_truth(row["question"], row["truth"]), row["completion"])
        for row in rows("countdown")
    ]
    with capsys.disabled():
        print(f"\nsudoku: {full} of {len(pairs)} have 16 digits, share of cells {cells:.4f}")
    assert full == 10
    assert cells * 8 * len(pairs) == 18  # each puzzle has 8 empty cells
    assert set(strict) == {0.0, 0.1}  # each right answer is in a box, which the code refuses
