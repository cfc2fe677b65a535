"""RandomCalculation, its arithmetic and its rewards, against exact oracles."""

from __future__ import annotations

import ast
import math
import operator
import random
import re
from contextlib import suppress
from fractions import Fraction

import pytest

from autodidact.problem import Problem
from autodidact.tasks import arithmetic
from autodidact.tasks.arithmetic import evaluate, parse, value
from autodidact.tasks.random_calculation import (
    graded,
    inverted,
    problem,
    random_calculation,
    random_reward,
    stated,
    tiny_calculation,
)
from autodidact.tasks.reverse_text import reverse_text
from autodidact.tasks.worked import worked, written

PAPER = random_calculation(steps=5)
TINY = tiny_calculation()


def python_value(text: str) -> Fraction:
    """The value by Python's own grammar, an independent parser."""
    text = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"(\1/\2)", text).replace("^", "**")
    operators = {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.Pow: lambda a, b: a ** int(b),
        ast.USub: operator.neg,
    }

    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant):
            return Fraction(str(node.value))
        if isinstance(node, ast.UnaryOp):
            return operators[type(node.op)](walk(node.operand))
        return operators[type(node.op)](walk(node.left), walk(node.right))

    return walk(ast.parse(text, mode="eval").body)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7+8*3", 31),
        ("2-3-4", -5),
        ("24/4/3", 2),
        ("-2^2", -4),
        ("2^3^2", 512),
        ("2^-1", Fraction(1, 2)),
        ("5--2", 7),
        ("5*-2", -10),
        ("4-3+2", 3),
        (".5+1.25", Fraction(7, 4)),
        ("3.", 3),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        (r"\frac{1+2}{2*3}", Fraction(1, 2)),
        (r"2/\frac{3}{4}", Fraction(8, 3)),
        (r"\frac{1}{2}^2", Fraction(1, 4)),
        (r"\boxed{\dfrac{1}{3}}", Fraction(1, 3)),
        (r"\left( 2 + 3 \right) \times 4 \div 5 \cdot 6", 24),
        ("3 \u00d7 4 \u2212 6 \u00f7 2", 9),
        ("(((1)))", 1),
        ("10^12", 10**12),
        ("0^0", 1),
    ],
)
def test_value(text: str, expected: Fraction):
    assert value(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "(",
        ")",
        "(1",
        "1)",
        "1+",
        "*2",
        "1 2",
        "2(3)",
        "1..2",
        "1,000",
        "x",
        "1e5",
        "inf",
        "nan",
        "0x10",
        "1_000",
        "\u0663",
        "\u00b2",
        "1/0",
        "0^-1",
        "1/(2-2)",
        r"\frac{1}{0}",
        r"\frac12",
        r"\frac{1}",
        r"\sqrt{4}",
        "2^65",
        "2^0.5",
        "10^13",
        "9^64",
        "999999*999999*999999",
        "1/999999/9999999",
        "9" * 400,
        "0." + "1" * 30,
        "(" * 65 + "1" + ")" * 65,
        "2^" * 200 + "1",
        "1" + "+1" * 256,
        "\x00",
        "__import__('os')",
    ],
)
def test_value_refuses(text: str):
    with pytest.raises(ValueError, match=r"."):
        value(text)


def test_value_raises_nothing_else_on_noise():
    rng = random.Random(0)
    pieces = [*"0123456789+-*/^(){}. ", "\\frac", "\\boxed", "{", "}", "^", "(", ")"]
    read = 0
    for _ in range(5000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 24)))
        with suppress(ValueError):
            read += isinstance(value(text), Fraction)
    assert read > 100


def test_bounds_are_inclusive():
    depth = arithmetic.DEPTH
    assert value("(" * depth + "1" + ")" * depth) == 1
    assert value("1" + " " * (arithmetic.LENGTH - 1)) == 1
    assert value("1/10^12") == Fraction(1, 10**12)
    assert value("10^13", limit=10**13) == 10**13


@pytest.mark.parametrize("task", [PAPER, TINY, random_calculation(steps=(0, 4), seed=3)])
def test_answers_agree_with_an_independent_parser(task):
    for row in (*task.train, *task.test):
        expression = row.meta["expression"]
        assert value(row.answer, 10**300) == python_value(expression)
        assert len(re.findall(r"[-+*/]", expression)) == row.meta["steps"]


@pytest.mark.parametrize("task", [PAPER, TINY])
def test_every_worked_line_is_true_and_ends_in_the_answer(task):
    for row in (*task.train, *task.test):
        for line in row.solution.splitlines():
            if "=" in line:
                left, right = line.partition(",")[0].split("=")
                assert value(left, 10**300) == value(right, 10**300), row
            if "leaves " in line:
                rest = line.rpartition("leaves ")[2]
                assert value(rest, 10**300) == value(row.answer, 10**300), row
        assert task.correct(row, row.solution)
        assert task.final(row.solution) == str(value(row.answer, 10**300))
    assert task.reward(task.test, [row.solution for row in task.test]) == [1.0] * len(task.test)


def test_worked_exactly():
    assert problem("7+8*3").solution == "8*3=24\n7+24=31"
    assert problem("3*(4-9)-1").solution == "4-9=-5\n3*(-5)=-15\n-15-1=-16"
    assert problem(r"2/\frac{3}{4}").solution == "2/(3/4)=8/3"
    assert problem("5").solution == "5=5"
    full = problem(r"4-5*\frac{2}{4}", "full")
    assert full.question.endswith(r"\boxed{}: 4-5*\frac{2}{4}")
    assert full.solution == (
        "5*\\frac{1}{2}=\\frac{5}{2}, which leaves 4-\\frac{5}{2}\n"
        "4-\\frac{5}{2}=\\frac{3}{2}\n"
        "The value is \\boxed{\\frac{3}{2}}."
    )
    assert full.answer == r"\frac{3}{2}"


def test_a_wrong_step_is_carried_on():
    wrong = worked(parse("7+8*3-1"), step=lambda o, a, b: arithmetic.apply(o, a, b) + (o == "*"))
    assert wrong == "8*3=25\n7+25=32\n32-1=31"


def test_written_text_parses_to_the_same_tree():
    rng = random.Random(1)

    def tree(depth: int):
        if depth == 0 or rng.random() < 0.2:
            return Fraction(rng.randint(-9, 9), rng.randint(1, 4))
        return rng.choice("+-*/"), tree(depth - 1), tree(depth - 1)

    for _ in range(500):
        node = tree(4)
        try:
            expected = evaluate(node, 10**300)
        except ValueError:
            continue
        for wording in ("terse", "full"):
            assert value(written(node, wording), 10**300) == expected, node


@pytest.mark.parametrize(
    ("given", "truth", "expected"),
    [(5, 5, 1.0), ("5.1", 5, 0.94), (6, 5, 0.4), (105, 100, 0.475), (".5", 0, 0.25)],
)
def test_graded_reward(given, truth, expected):
    assert graded(Fraction(given), Fraction(truth)) == pytest.approx(expected, abs=1e-7)


def test_rewards_of_completions():
    rows = [Problem("2+3", answer="5")] * 4
    texts = ["2+3=5", "2+3=6", "no idea", "2+3=6\n=5"]
    assert TINY.reward(rows, texts) == pytest.approx([1, 0.4, 0, 1], abs=1e-6)
    assert inverted(TINY.reward)(rows, texts) == pytest.approx([0, 0.6, 1, 0], abs=1e-6)
    assert TINY.reward([Problem("2+3")], ["2+3=5"]) == [None]
    assert inverted(TINY.reward)([Problem("2+3")], ["2+3=5"]) == [None]
    coins = random_reward(seed=5)(rows * 1000, texts * 1000)
    assert set(coins) == {0.0, 1.0}
    assert abs(sum(coins) / 4000 - 0.5) < 5 * math.sqrt(0.25 / 4000)
    assert coins == random_reward(seed=5)(rows * 1000, texts * 1000)


@pytest.mark.parametrize(
    ("text", "wording", "expected"),
    [
        ("8*3=24\n7+24=31", "terse", 31),
        ("7+8*3=7+24", "terse", None),
        ("=7+8*3", "terse", None),
        (r"\boxed{7+8*3}", "full", None),
        ("31", "terse", None),
        ("1+1=", "terse", None),
        (r"so \boxed{1}, no \boxed{\frac{3}{2}}.", "full", Fraction(3, 2)),
        (r"\boxed{0.5} = 7", "full", Fraction(1, 2)),
        (r"\boxed{12", "full", 12),
        (r"\boxed{}", "full", None),
        ("x = 12", "full", None),
    ],
)
def test_stated_answers(text, wording, expected):
    assert stated(text, wording) == expected


def test_the_string_rule():
    task = random_calculation(
        steps=2, largest=4, atoms=("integer",), operators="-", train=100, test=20
    )
    texts = [row.question.rpartition(" ")[2] for row in (*task.train, *task.test)]
    assert all(re.fullmatch(r"\d-\d-\d", text) for text in texts)
    task = random_calculation(
        steps=2, largest=4, atoms=("integer",), operators="*", train=150, test=50, wording="terse"
    )
    shape = re.compile(r"\(\d\*\d\)\*\d|\d\*\(\d\*\d\)")
    assert all(shape.fullmatch(row.question) for row in (*task.train, *task.test))


def test_atoms():
    task = random_calculation(steps=0, wording="terse", train=1000, test=88)
    texts = {row.question for row in (*task.train, *task.test)}
    assert len(texts) == 100 + 99 * 8 + 98 * 2 == 1088
    assert {"0", "99", r"\frac{1}{2}", r"\frac{99}{9}", "2^2", "99^3"} <= texts
    assert not {"100", r"\frac{0}{2}", "1^2"} & texts


def test_problems_are_distinct_and_reproducible():
    for task in (PAPER, TINY):
        texts = [row.question for row in (*task.train, *task.test)]
        assert len(set(texts)) == len(texts)
    assert TINY.train == tiny_calculation().train and TINY.test == tiny_calculation().test
    assert TINY.train != tiny_calculation(seed=1).train
    assert (len(PAPER.train), len(PAPER.test)) == (700, 300)
    assert {row.meta["steps"] for row in TINY.test} == {1, 2, 3}
    assert all(abs(value(row.answer)) <= 200 for row in TINY.train)


def test_a_short_level_is_made_up_by_the_others():
    task = random_calculation(
        steps=(1, 2), largest=2, atoms=("integer",), wording="terse", train=80, test=0
    )
    counts = [sum(row.meta["steps"] == n for row in task.train) for n in (1, 2)]
    assert counts == [33, 47]  # 9 pairs x 4 operators, less three divisions by zero


def test_privileged_prompt_shows_the_solution():
    row = TINY.test[0]
    assert TINY.prompt(row) == [{"role": "user", "content": row.question}]
    text = TINY.privileged(row)[0]["content"]
    assert text == f"{row.question}\nsolution:\n{row.solution}"
    with pytest.raises(ValueError, match="no solution"):
        TINY.privileged(Problem("1+1", answer="2"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": (3, 1)}, "steps"),
        ({"steps": -1}, "steps"),
        ({"largest": 1}, "largest"),
        ({"operators": "+%"}, "operators"),
        ({"operators": ""}, "operators"),
        ({"atoms": ("integers",)}, "did you mean 'integer'"),
        ({"atoms": ()}, "atoms"),
        ({"wording": "ters"}, "wording.*did you mean 'terse'"),
        ({"train": 0, "test": 0}, "train"),
        ({"steps": 0, "train": 2000}, "only 1088 distinct"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        random_calculation(**options)


def test_reverse_text():
    task = reverse_text()
    words = [row.question for row in (*task.train, *task.test)]
    assert len(set(words)) == len(words) == 2200
    for row in task.test:
        assert row.question == "reverse:" + row.answer[::-1]
        assert task.correct(row, row.solution + "\n") and not task.correct(row, row.solution[:-1])
    assert task.privileged(task.test[0])[0]["content"].endswith("\n" + task.test[0].solution)
    assert task.score(task.test[:2], [task.test[0].answer, "?"]) == [1.0, 0.0]
    with pytest.raises(ValueError, match="length"):
        reverse_text(length=(3, 2))
    with pytest.raises(ValueError, match="words"):
        reverse_text(length=(1, 1), train=20)
