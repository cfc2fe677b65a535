"""Countdown: expressions against independent arithmetic, answers out of loose text, the task."""

from __future__ import annotations

import ast
import itertools
import operator
import random
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autodidact.problem import Problem
from autodidact.tasks import expressions, puzzles, spoken
from autodidact.tasks.arithmetic import value
from autodidact.tasks.countdown import countdown, tiny_countdown
from autodidact.tasks.expressions import canonical, solve, solves
from autodidact.tasks.verify import verify
from toys import no_hang

SHARED = Path(__file__).parents[1] / "../shared/data"
TINY = tiny_countdown(train=200, test=50)
D1 = countdown(train=100, test=50)
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}  # fmt: skip
PUZZLE = puzzles.problem([49, 55, 53], 51)


def python_value(text: str, names: dict[int, Fraction] | None = None) -> Fraction:
    """The value by Python's own grammar; with `names`, of what each number stands for."""

    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant):
            return names[node.value] if names else Fraction(node.value)
        if isinstance(node, ast.UnaryOp):
            return -walk(node.operand)
        return OPERATORS[type(node.op)](walk(node.left), walk(node.right))

    return walk(ast.parse(text, mode="eval").body)


def every_expression(numbers: tuple[int, ...]) -> list[str]:
    """All ways to write an expression of the numbers, by order, brackets and operators."""

    def trees(row: tuple[int, ...]) -> list[str]:
        if len(row) == 1:
            return [str(row[0])]
        return [
            f"({a}{sign}{b})"
            for cut in range(1, len(row))
            for a in trees(row[:cut])
            for b in trees(row[cut:])
            for sign in "+-*/"
        ]

    return [text for order in set(itertools.permutations(numbers)) for text in trees(order)]


def test_canonical_is_equality_as_rational_functions():
    """Of all 7,680 ways to write four different numbers; the oracle puts random numbers in.

    1170 is the number of such calculations in the literature too (OEIS A140606).
    """
    rng = random.Random(0)
    names = {n: Fraction(rng.randint(10**6, 10**7), rng.randint(2, 99)) for n in (3, 5, 7, 11)}
    by_value: dict[Fraction, set[str]] = {}
    for text in every_expression((3, 5, 7, 11)):
        by_value.setdefault(python_value(text, names), set()).add(canonical(text))
    assert all(len(texts) == 1 for texts in by_value.values())
    texts = [text for (text,) in by_value.values()]
    assert len(set(texts)) == len(texts) == 1170


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3-(5-7)", "3+7-5"),
        ("3/(5/7)", "7*3/5"),
        ("-(3-5)*7", "7*(5-3)"),
        ("-3+5", "5-3"),
        ("(3-5)*(7-9)", "(5-3)*(9-7)"),
        ("((3)) + 5", "5+3"),
        ("-(1-3)", "3-1"),
        ("2--3", "3+2"),
    ],
)
def test_canonical_of_the_same(one, other):
    assert canonical(one) == canonical(other)
    assert canonical(canonical(one)) == canonical(one)
    assert value(canonical(one)) == value(one)


def test_canonical_of_different_calculations():
    assert len({canonical(text) for text in ("9*1", "9/1", "9-1", "1-9", "-9*1", "(9-1)*1")}) == 6
    assert canonical("5-5+1") != canonical("5+5-1")
    for bad in ("", "2^3", "2**3", "x", "1.5+2", "1/2/", "9" * 13, "(" * 80 + "1" + ")" * 80):
        with pytest.raises(ValueError, match=r"."):
            canonical(bad)


@pytest.mark.parametrize(("numbers", "target"), [((49, 55, 53), 51), ((2, 2, 4), 4), ((3, 3, 8, 8), 24), ((1, 1, 92), 46), ((7, 7), 3)])  # fmt: skip
def test_solve_finds_what_enumeration_finds(numbers, target):
    right = set()
    for text in every_expression(numbers):
        try:
            right |= {canonical(text)} if python_value(text) == target else set()
        except ZeroDivisionError:
            continue
    assert set(solve(numbers, target)) == right
    assert all(python_value(text) == target for text in right)


def test_solve_examples_and_bounds():
    assert solve([3, 3, 8, 8], 24) == ("8/(3-8/3)",)
    assert solve([7, 7], 3) == ()
    assert solve([4, 9], 49) == ()
    assert solve([4, 9], 36, "+-") == ()
    with pytest.raises(ValueError, match="1 to 5"):
        solve([1] * 6, 1)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("49 + 55 - 53", True),
        ("55-53+49", True),
        ("(49+55)-53", True),
        ("-53+49+55", True),
        ("-(53-49-55)", True),
        ("49+55+-53", True),
        ("\\boxed{49 + 55 - 53}", True),
        ("$\\boxed{49+55-53}$", True),
        ("\\boxed{\\left(49 + 55\\right) - 53}", True),
        ("\\[49 + 55 - 53\\]", True),
        ("49 + 55 - 53 = 51", True),
        ("51 = 49 + 55 - 53", True),
        ("49 + 55 - 53 = 104 - 53 = 51", True),
        ("49+55-53 \\approx 51", True),
        ("49 + 55 \u2212 53", True),
        ("49 + 55 \u2013 53 \u2192 51", True),
        ("**49 + 55 - 53**", True),
        ("`49+55-53`.", True),
        ("The expression is 49 + 55 - 53, which equals 51.", True),
        ("49 + 55 = 104\n104 - 53 = 51\n49 + 55 - 53", True),
        ("1. 49 + 55 - 53", True),
        ("Answer - 49 + 55 - 53", True),
        ("\\text{49 + 55 - 53}", True),
        ("[49 + 55 - 53]", True),
        ("49 + 55 - 53<|eot_id|><|endoftext|>", True),
        ("\\boxed{49 + 55 - 53><|eot_id|>", True),
        ("(49 + 55 - 53", True),
        ("49 + 55\n- 53", True),
        ("49 + 55", False),
        ("49 + 55 - 53 - 53", False),
        ("49 + 55 - 53 + 0", False),
        ("55 + 49 = 104, 104 - 53 = 51", False),
        ("51", False),
        ("51 = 51", False),
        ("49 - 55 + 53", False),
        ("49 + 55 - 53 + x", False),
        ("49 ** 1 + 55 - 53", False),
        ("49^1 + 55 - 53", False),
        ("49.0 + 55 - 53", False),
        ("4 9 + 55 - 53", False),
        ("sqrt(49+55-53)", False),
        ("(49+55-53)\u00b2", False),
        ("no solution", False),
        ("49, 55, 53", False),
        ("", False),
    ],
)
def test_answers_of_one_puzzle(answer, right):
    for text in (
        f"<answer>\n{answer}\n</answer>",
        f"<reasoning>\n1+1\n</reasoning><answer>{answer}",
    ):
        assert puzzles.correct(PUZZLE, text) is right, text


@pytest.mark.parametrize(
    ("numbers", "target", "answer", "right"),
    [
        ([2, 3, 4], 14, "2(3+4)", True),
        ([2, 3, 4], 14, "(3+4)2", True),
        ([2, 3, 4, 5], 63, "(3+4)(5+4)", False),
        ([3, 4, 5, 2], 49, "(3+4)(5+2)", True),
        ([4, 9], 49, "49", False),
        ([4, 9], 36, "4 \u00d7 9", True),
        ([4, 9], 36, "4 x 9", True),
        ([4, 9], 36, "4 \\cdot 9", True),
        ([8, 2], 4, "8 \u00f7 2", True),
        ([8, 2], 4, "8 \\div 2 = 4", True),
        ([8, 2], 4, "\\frac{8}{2}", True),
        ([8, 2], 4, "\\dfrac{8}{2} = 4", True),
        ([8, 2], 4, "\\boxed{\\frac{8}{2}}", True),
        ([8, 2, 2], 8, "\\frac{\\frac{8}{2}}{2}", False),
        ([8, 2, 2], 2, "\\frac{\\frac{8}{2}}{2}", True),
        ([8, 2], 4, "\\frac82", True),
        ([8, 2], 4, "8/2/1", False),
        ([8, 3, 3, 8], 24, "8/(3-8/3)", True),
        ([1, 3, 3], 1, "1/3*3", True),
        ([5, 5], 0, "1/(5-5)", False),
        ([1000, 5], 1005, "1,000 + 5", True),
        ([2, 3], 8, "2**3", False),
        ([2, 3], 8, "2^{3}", False),
        ([2, 3], 6, "2*-3", False),
        ([2, 3], -6, "2*-3", True),
    ],
)
def test_answers_of_other_puzzles(numbers, target, answer, right):
    problem = puzzles.from_truth("q", [numbers, target])
    assert puzzles.correct(problem, f"<answer>{answer}</answer>") is right


@pytest.mark.parametrize(
    ("completion", "found"),
    [
        ("<answer>1+2</answer> no: <answer>3+4</answer>", "3+4"),
        ("<answer>3+4</answer> <answer>\n...\n</answer>", "3+4"),
        ("\\boxed{1+2} <answer>3+4</answer>", "3+4"),
        ("<answer>\\boxed{}</answer> so \\boxed{3+4}", "3+4"),
        ("<<answer>\n3+4</answer>", "3+4"),
        ("<>\nanswer>3+4", "3+4"),
        ("<answer \\boxed{3+4}", "3+4"),
        ("1+2\n</answer>\n\\boxed{3+4}\n</<|eot|>", "3+4"),
        ("boxed{3+4}", "3+4"),
        ("so the expression \\(3 + 4 - 5\\) makes 2.\n<answer>\n\\boxed{}", "3 + 4 - 5"),
        ("<think><answer>1+2</answer></think>3+4", "3+4"),
        ("first 1+2+3 = 6.\n- 5 + 6 = 11", "1+2+3"),
        ("it is 51", None),
        ("<answer>I give up</answer> 3+4", None),
        ("", None),
    ],
)
def test_where_the_answer_stands(completion, found):
    assert spoken.stated(completion) == found
    assert spoken.final(completion) == (None if found is None else canonical(found))


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("<answer>\n49+55-53\n</answer>", 1.0),
        ("<answer>1</answer><answer>(49 + 55) - 53</answer>", 1.0),
        ("<answer>49+55-53</answer><answer>1</answer>", 0.1),
        ("<answer>49+55-53 = 51</answer>", 0.1),
        ("<answer>\\boxed{49+55-53}</answer>", 0.1),
        ("<answer></answer>", 0.1),
        ("<answer>49**1+55-53</answer>", 0.1),
        ("<answer>49+55-53", 0.0),
        ("49+55-53", 0.0),
    ],
)
def test_the_published_reward(completion, reward):
    assert puzzles.published(PUZZLE, completion) == reward
    assert D1.reward([PUZZLE], [completion]) == [reward]


PIECES = [*"0123456789+-*/^()[]{}=.,<>|$\\ \nx!", "\\frac{", "\\boxed{", "<answer>", "</answer>", "\\left(", "<|eot_id|>", "\u00d7", "\u0663", "**"]  # fmt: skip
NOISE = st.lists(st.sampled_from(PIECES), max_size=80).map("".join)


@settings(max_examples=400, deadline=None)
@given(NOISE)
def test_noise_is_read_or_refused(text):
    for wrapped in (text, f"<answer>{text}</answer>", f"\\boxed{{{text}"):
        found = spoken.stated(wrapped)
        if found is not None:
            assert canonical(found) == spoken.final(wrapped) == canonical(canonical(found))
        assert isinstance(puzzles.correct(PUZZLE, wrapped), bool)
        assert puzzles.published(PUZZLE, wrapped) in (0.0, 0.1, 1.0)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["49", "55", "53", "51"]), st.text(alphabet="+-*/() 0123456789", max_size=30)
)
def test_what_counts_as_right_is_right(number, text):
    found = spoken.stated(f"<answer>{number}{text}</answer>")
    if found is not None and solves(found, [49, 55, 53], 51):
        assert python_value(found) == 51


HOSTILE = ["9**9**9**9", "9^" * 5000 + "9", "(" * 50_000, ")" * 50_000, "(" * 20_000 + "1" + ")" * 20_000, "1" * 50_000, "1+" * 25_000, "1=" * 25_000, "<answer>" * 6_000, "<" * 50_000, "\\boxed{" * 7_000, "\\frac{" * 8_000, "\\frac{1}{" * 4_000 + "1" + "}" * 4_000, "-" * 50_000, " " * 50_000 + "1", "x" * 50_000, "\\left" * 9_000, "<answer" * 7_000 + ">", "\n" * 50_000, "1 " * 25_000, "{" * 50_000, "__import__('os').system('touch pwned')"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_wrong_and_hangs_nothing(text):
    with no_hang():
        for wrapped in (text, f"<answer>{text}</answer>", f"\\boxed{{{text}}}", f"{text}</answer>"):
            assert puzzles.correct(PUZZLE, wrapped) is False
            assert puzzles.published(PUZZLE, wrapped) in (0.0, 0.1)


@pytest.mark.parametrize("task", [TINY, D1, countdown((3, 4), operators="*-+", train=30, test=20, seed=4)])  # fmt: skip
def test_every_problem_is_solved_by_its_solution(task):
    rows = [*task.train, *task.test]
    assert len({puzzles.key(row) for row in rows}) == len(rows)
    for row in rows:
        assert task.correct(row, row.solution), row
        assert task.final(row.solution) == row.answer == canonical(row.answer)
        assert python_value(row.answer) == row.meta["target"]
        assert row.answer in solve(row.meta["numbers"], row.meta["target"])
        assert "is right" in task.feedback(row, row.solution)
        assert not task.correct(row, "<answer>1+1</answer>\n1+1+1+1+1")
    assert task.reward(rows, [row.solution for row in rows]) == [1.0] * len(rows)


def test_the_tiny_setting():
    row = puzzles.problem([3, 7, 20], 41, "terse")
    assert row.question == "3,7,20:41"
    assert row.solution.splitlines()[-1] == row.answer and row.solution.count("\n") == 2
    for text, right in (
        ("7*3=21\n20+21=41\n20+7*3", True),
        ("20+7*3", True),
        ("20+7*3\n41", False),
    ):
        assert TINY.correct(row, text) is right
    assert TINY.reward([row] * 3, [row.answer, "3+7", " "]) == [1.0, 0.1, 0.0]
    assert TINY.train == tiny_countdown(train=200, test=50).train
    assert TINY.train != tiny_countdown(train=200, test=50, seed=1).train
    assert all(
        max(row.meta["numbers"]) <= 15 and 1 <= row.meta["target"] <= 60 for row in TINY.train
    )
    assert all(set(row.answer) <= set("0123456789+-*()") for row in TINY.train)
    text = TINY.told(row, "solution", "20+7*3")[0]["content"]
    assert text == "3,7,20:41\nsolution:\n20+7*3"
    assert TINY.privileged(row)[0]["content"].endswith(row.solution)
    with pytest.raises(ValueError, match="no solution"):
        TINY.privileged(Problem("1,1:2"))


def test_the_published_prompt_and_feedback():
    text = D1.prompt(PUZZLE)[0]["content"]
    assert "numbers [49, 55, 53]" in text and "to exactly 51." in text
    assert "operations +, -, *, and / as" in text
    assert D1.feedback(PUZZLE, "hm") == "No expression was found in the answer."
    said = D1.feedback(PUZZLE, "<answer>49+55</answer>")
    assert said == "49+55 is wrong: it uses the numbers 49, 55; given are 49, 55, 53."
    said = D1.feedback(PUZZLE, "<answer>49-(55-53)</answer>")
    assert said == "49-(55-53) is wrong: its value is 47, not 51."
    exact = countdown(reward="exact", train=1, test=1)
    assert exact.reward([PUZZLE] * 2, ["so \\boxed{49+55-53}", "<answer>1</answer>"]) == [1.0, 0.0]


def test_a_file_of_test_problems(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text('{"input": "30,100,93", "output": "23"}\n{"input": "2,3", "output": "6"}\n')
    task = countdown(path=path, train=5)
    assert [row.meta["target"] for row in task.test] == [23, 6] and len(task.train) == 5
    assert len(countdown(path=path, train=5, test=1).test) == 1
    path.write_text('{"input": "2,3", "output": "7"}\n')
    with pytest.raises(ValueError, match=r"test\.jsonl:1: .*cannot make 7"):
        countdown(path=path)
    path.write_text('{"input": "2,3"}\n')
    with pytest.raises(ValueError, match="needed: input, output"):
        countdown(path=path)


def test_the_published_test_problems_are_all_solvable():
    path = SHARED / "countdown/test.jsonl"
    if not path.is_file():
        pytest.skip(f"no data at {path}")
    task = countdown(path=path, train=50)
    assert len(task.test) == 256
    keys = {puzzles.key(row) for row in task.test}
    assert not keys & {puzzles.key(row) for row in task.train}


def test_verify_reads_truth_in_several_forms(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"question": "q", "completion": "<answer>2*3</answer>", "truth": [[2, 3], 6]}\n'
        '{"question": "q", "completion": "<answer>2*3</answer>", "answer": "[[2, 3], 6]"}\n'
        '{"question": "q", "completion": "<answer>3*2=6</answer>", "answer": "2*3"}\n'
        '{"question": "q", "completion": "<answer>6</answer>", "truth": [[2, 3], 6]}\n'
    )
    assert verify(path, "countdown").correct == (True, True, True, False)
    for truth in ("[[2.5, 3], 6]", "[1, 2, 3]", '"[[2, 3]"', '"words"', "7.5", '"1/2"'):
        path.write_text(f'{{"question": "q", "completion": "", "truth": {truth}}}\n')
        with pytest.raises(ValueError, match=r"a\.jsonl:1: "):
            verify(path, "countdown")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numbers": 1}, "numbers"),
        ({"numbers": (4, 3)}, "numbers"),
        ({"numbers": 6}, "numbers"),
        ({"largest": 0}, "largest"),
        ({"target": (5, 1)}, "target"),
        ({"operators": "+%"}, "operators"),
        ({"wording": "ters"}, "did you mean 'terse'"),
        ({"reward": "exakt"}, "did you mean 'exact'"),
        ({"train": 0, "test": 0}, "train"),
        ({"largest": 2, "numbers": 2}, "only .* distinct puzzles"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        countdown(**options)


def test_a_goal_without_meta():
    assert puzzles.goal(Problem("q", answer="20+7*3")) == ([20, 7, 3], 41)
    with pytest.raises(ValueError, match="no numbers"):
        puzzles.goal(Problem("q"))
    assert expressions.fault("7+3", [7, 3], 10, "-") == "it uses +; allowed: -"
