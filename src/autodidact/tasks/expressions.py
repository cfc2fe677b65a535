"""Arithmetic puzzles: one expression out of given numbers, each of them used once.

`solve` lists the solutions of a puzzle, `canonical` writes an expression so that two ways to
write one calculation are equal strings, and `solves` checks one exactly. Text of a model goes
through the bounded parser of `arithmetic`; it is never executed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

from autodidact.tasks.arithmetic import LENGTH, Node, parse, value

MOST = 5
"""Most numbers that `solve` takes: 5 take seconds, and each further one 100 times as long."""

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_ALLOWED = re.compile(r"[0-9+\-*/(). ]*")

Term = tuple[int, str]
"""A sign and what it stands before."""


def leaves(expression: str) -> list[int]:
    """The numbers of an expression, in order; `ValueError` for one that is no whole number."""
    if len(expression) > LENGTH:
        raise ValueError(f"expression of {len(expression)} characters; at most {LENGTH} are read")
    found = _NUMBER.findall(expression)
    for text in found:
        if not text.isdigit() or len(text) > 12:
            raise ValueError(f"{text[:20]!r} in {expression[:60]!r} is no whole number to 10^12")
    return [int(text) for text in found]


def solves(expression: str, numbers: Sequence[int], target: int, operators: str = "+-*/") -> bool:
    """Whether an expression uses the numbers, each once, and has the value `target` exactly.

    A minus before a bracket or a number is allowed where `-` is.
    """
    return fault(expression, numbers, target, operators) is None


def fault(
    expression: str, numbers: Sequence[int], target: int, operators: str = "+-*/"
) -> str | None:
    """What keeps an expression from being a solution, in words; `None` if it is one."""
    try:
        used = leaves(expression)
        result = _value(expression)
    except ValueError as error:
        return f"it cannot be read: {error}"
    if extra := sorted(set(re.findall(r"[-+*/]", expression)) - set(operators)):
        return f"it uses {' '.join(extra)}; allowed: {' '.join(operators)}"
    if sorted(used) != sorted(numbers):
        return f"it uses the numbers {_listed(used)}; given are {_listed(numbers)}"
    return None if result == target else f"its value is {result}, not {target}"


def canonical(expression: str) -> str:
    """One string for all ways to write a calculation.

    Equal are expressions that differ by the order of terms or factors, by brackets that do not
    matter, or by where a minus stands: `(b-a)*c`, `-c*(a-b)`, `c*(b-a)`; and `a-(b-c)`, `a+c-b`.
    For numbers that are all different, this is equality as rational functions of them. `n*1` and
    `n/1` are different calculations.

    Raises:
        ValueError: it is no expression of whole numbers with `+ - * /`.
    """
    numbers = leaves(expression)
    if expression.isdigit():
        return str(numbers[0])
    if not _ALLOWED.fullmatch(expression):
        raise ValueError(f"{expression[:60]!r} is no expression of whole numbers with + - * /")
    # Numbers are parsed as their places, from 2 on: the parser writes a minus before a bracket
    # as a factor -1, which could not be told from a given 1.
    places = iter(range(2, len(numbers) + 2))
    tree = parse(_NUMBER.sub(lambda _: str(next(places)), expression))
    return _joined(_terms(tree, numbers))


def solve(numbers: Sequence[int], target: int, operators: str = "+-*/") -> tuple[str, ...]:
    """All calculations that make `target` of the numbers, each used once, in canonical form.

    Exact, by enumeration: every way of joining two of the values that are left.

    Args:
        numbers: at most `MOST` positive whole numbers.
        operators: some of `+-*/`. Fractions are allowed on the way.

    Returns:
        Distinct solutions, the shortest first.

    Raises:
        ValueError: too many numbers.
    """
    if not 1 <= len(numbers) <= MOST:
        raise ValueError(f"{len(numbers)} numbers; allowed: 1 to {MOST}")
    found: set[str] = set()
    start = [(Fraction(number), str(number)) for number in numbers]
    _search(start, Fraction(target), operators, found, set())
    return tuple(sorted(found, key=lambda text: (len(text), text)))


def _search(
    left: list[tuple[Fraction, str]],
    target: Fraction,
    operators: str,
    found: set[str],
    seen: set[tuple[str, ...]],
) -> None:
    if len(left) == 1:
        if left[0][0] == target:
            found.add(canonical(left[0][1]))
        return
    state = tuple(sorted(text for _, text in left))
    if state in seen:
        return
    seen.add(state)
    for i, j in combinations(range(len(left)), 2):
        rest = [left[k] for k in range(len(left)) if k not in (i, j)]
        for made in _joins(left[i], left[j], operators):
            _search([*rest, made], target, operators, found, seen)


def _joins(a: tuple[Fraction, str], b: tuple[Fraction, str], operators: str):
    for operator in operators:
        for (x, left), (y, right) in ((a, b), (b, a)):
            if operator == "+":
                yield x + y, f"({left}+{right})"
            elif operator == "-":
                yield x - y, f"({left}-{right})"
            elif operator == "*":
                yield x * y, f"({left}*{right})"
            elif y != 0:
                yield x / y, f"({left}/{right})"
            if operator in "+*":
                break


def _value(expression: str) -> Fraction:
    if not _ALLOWED.fullmatch(expression):
        raise ValueError(f"{expression[:60]!r} is no expression of whole numbers with + - * /")
    return value(expression)


def _terms(node: Node, numbers: list[int]) -> list[Term]:
    """The signed terms of a sum, none of them a sum."""
    if not isinstance(node, Fraction) and node[0] in "+-":
        operator, left, right = node
        turn = -1 if operator == "-" else 1
        rest = [(turn * sign, text) for sign, text in _terms(right, numbers)]
        return [*_terms(left, numbers), *rest]
    sign, factors = _factors(node, numbers)
    if len(factors) == 1 and factors[0][0] == 1:  # a sum in brackets, or a number
        return [(sign * s, text) for s, text in factors[0][1]]
    return [(sign, _product(factors))]


def _factors(node: Node, numbers: list[int]) -> tuple[int, list[tuple[int, list[Term]]]]:
    """The sign of a product, and its factors: an exponent of 1 or -1, and a sum's terms."""
    if isinstance(node, Fraction):
        sign = -1 if node < 0 else 1
        if abs(node) == 1:
            return sign, []
        return sign, [(1, [(1, str(numbers[int(abs(node)) - 2]))])]
    operator, left, right = node
    if operator in "*/":
        turn = -1 if operator == "/" else 1
        (a, ours), (b, theirs) = _factors(left, numbers), _factors(right, numbers)
        return a * b, [*ours, *((turn * exponent, terms) for exponent, terms in theirs)]
    terms = _terms(node, numbers)
    sign = _sign(terms)
    return sign, [(1, [(sign * s, text) for s, text in terms])]


def _sign(terms: list[Term]) -> int:
    """Which way round a bracket is written: so that it is positive, and else by its text."""
    try:
        result = value(_joined(terms))
    except ValueError:  # it divides by zero, or is beyond the parser's bounds
        result = Fraction(0)
    return (1 if result > 0 else -1) if result else min(terms, key=_by_text)[0]


def _product(factors: list[tuple[int, list[Term]]]) -> str:
    written = [(-exponent, _bracketed(terms)) for exponent, terms in factors]
    first, *rest = sorted(written, key=lambda each: (each[0], *_by_text(each)))
    assert first[0] == -1, "a product has a numerator"
    return first[1] + "".join(("*" if turned < 0 else "/") + text for turned, text in rest)


def _bracketed(terms: list[Term]) -> str:
    text = _joined(terms)
    return text if text.isdigit() else f"({text})"


def _joined(terms: list[Term]) -> str:
    """A sum as text: what is added first, then what is taken away."""
    ordered = sorted(terms, key=lambda term: (-term[0], *_by_text(term)))
    text = "".join(("+" if sign > 0 else "-") + each for sign, each in ordered)
    return text.removeprefix("+")


def _by_text(term: Term) -> tuple[int, str, int]:
    return -len(term[1]), term[1], -term[0]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"
