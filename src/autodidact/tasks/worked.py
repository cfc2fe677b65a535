"""Worked solutions of arithmetic: one operation at a time, in true equations."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Literal

from autodidact.tasks.arithmetic import Node, apply, reduce

Wording = Literal["full", "terse"]
"""`"full"`: LaTeX, what is left after each step, `\\boxed{}`; `"terse"`: bare equations."""
BOUND = 10**300
"""Largest numerator or denominator of any number on the way: a finite double."""


def worked(
    node: Node,
    wording: Wording = "terse",
    step: Callable[[str, Fraction, Fraction], Fraction] | None = None,
) -> str:
    r"""The steps that reduce a tree to its value, one operation a line.

    Args:
        node: the tree, as `arithmetic.parse` gives it.
        wording: `"terse"` writes `8*3=24`; `"full"` also writes what is left, and ends with
            `\boxed{}`.
        step: what an operation results in; exact by default. Later steps follow from it.
    """
    if isinstance(node, Fraction):
        number = show(node, wording)
        return f"\\boxed{{{number}}}" if wording == "full" else f"{number}={number}"
    exact = step or (lambda operator, a, b: apply(operator, a, b, BOUND))
    lines: list[str] = []
    left: Node = node
    for operator, a, b, result, left in reduce(node, exact):
        line = equation(operator, a, b, result, wording)
        if wording == "full" and not isinstance(left, Fraction):
            line += f", which leaves {written(left, wording)}"
        lines.append(line)
    if wording == "full":
        assert isinstance(left, Fraction)
        lines.append(f"The value is \\boxed{{{show(left, wording)}}}.")
    return "\n".join(lines)


def equation(
    operator: str, a: Fraction, b: Fraction, result: Fraction, wording: Wording = "terse"
) -> str:
    """One operation as a line: `3*(-5)=-15`."""
    return f"{show(a, wording)}{operator}{_right(b, wording)}={show(result, wording)}"


def show(number: Fraction, wording: Wording = "terse") -> str:
    r"""A number as text: `-3/4`, or `-\frac{3}{4}` in full wording."""
    if wording == "terse" or number.denominator == 1:
        return str(number)
    sign = "-" if number < 0 else ""
    return f"{sign}\\frac{{{abs(number.numerator)}}}{{{number.denominator}}}"


def written(node: Node, wording: Wording = "terse", first: bool = True) -> str:
    """A tree as text that parses to it, with the fewest brackets."""
    if isinstance(node, Fraction):
        return show(node, wording) if first else _right(node, wording)
    operator, left, right = node
    rank = "+-*/^"
    texts = []
    for side, child in enumerate((left, right)):
        text = written(child, wording, first and side == 0)
        if not isinstance(child, Fraction):
            inner, outer = rank.index(child[0]) // 2, rank.index(operator) // 2
            if inner < outer or (inner == outer and (side == 1 or operator == "^")):
                text = f"({written(child, wording)})"
        elif operator == "^" and side == 0 and (child < 0 or child.denominator != 1):
            text = f"({show(child, wording)})"
        texts.append(text)
    return operator.join(texts)


def _right(number: Fraction, wording: Wording) -> str:
    """A number as it stands after an operator."""
    text = show(number, wording)
    return f"({text})" if number < 0 or "/" in text else text
