r"""Exact arithmetic on untrusted text, by a small bounded parser.

    expression = term (("+" | "-") term)*
    term       = factor (("*" | "/") factor)*
    factor     = ("+" | "-")* power
    power      = atom ("^" factor)?
    atom       = number | "(" expression ")" | "{" expression "}"
               | \frac{expression}{expression} | \boxed{expression}

`\dfrac` and `\tfrac` read as `\frac`; `\times`, `\cdot`, the signs U+00D7 and U+00B7 as `*`;
`\div` and U+00F7 as `/`; U+2212 as `-`; `\left` and `\right` are skipped. Every bound below ends
in a `ValueError`, and nothing else is ever raised: text of a model cannot hang or crash a grader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction

LENGTH = 512
"""Longest text read, in characters."""
DEPTH = 64
"""Deepest nesting of brackets, powers and fractions."""
EXPONENT = 64
"""Largest absolute exponent."""
LIMIT = 10**12
"""Largest numerator or denominator of any number met on the way."""

Node = Fraction | tuple[str, "Node", "Node"]
"""A number, or `(operator, left, right)` with an operator of `+-*/^`."""

_TOKEN = re.compile(
    r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+|\\[dt]?frac|\\[a-z]+|[-+*/^(){}]|[\u00d7\u00b7\u00f7\u2212])"
)
_SAME = {
    "\\dfrac": "\\frac",
    "\\tfrac": "\\frac",
    "\\times": "*",
    "\\cdot": "*",
    "\u00d7": "*",
    "\u00b7": "*",
    "\\div": "/",
    "\u00f7": "/",
    "\u2212": "-",
}
_CLOSE = {"(": ")", "{": "}"}


def value(text: str, limit: int = LIMIT) -> Fraction:
    """The exact value of an expression.

    Args:
        text: the expression, for example `"7+8*3"` or `r"-\\frac{3}{4}"`.
        limit: largest numerator or denominator of any number met on the way.

    Raises:
        ValueError: `text` is no expression, divides by zero, or exceeds a bound.
    """
    return evaluate(parse(text, limit), limit)


def parse(text: str, limit: int = LIMIT) -> Node:
    """The tree of an expression, by the usual precedence; `ValueError` if it has none."""
    if len(text) > LENGTH:
        raise ValueError(f"expression of {len(text)} characters; at most {LENGTH} are read")
    parser = _Parser(_tokens(text), limit)
    node = parser.expression(0)
    if parser.next is not None:
        raise ValueError(f"unexpected {parser.next!r} in {text!r}")
    return node


def evaluate(node: Node, limit: int = LIMIT) -> Fraction:
    """The exact value of a tree; `ValueError` for a zero divisor or a number beyond `limit`."""
    if isinstance(node, Fraction):
        return node
    operator, left, right = node
    return apply(operator, evaluate(left, limit), evaluate(right, limit), limit)


def apply(operator: str, a: Fraction, b: Fraction, limit: int = LIMIT) -> Fraction:
    """`a operator b`, exactly; `ValueError` for a zero divisor or a number beyond `limit`."""
    if operator == "+":
        result = a + b
    elif operator == "-":
        result = a - b
    elif operator == "*":
        result = a * b
    elif operator == "/":
        if b == 0:
            raise ValueError("division by zero")
        result = a / b
    elif operator == "^":
        result = _power(a, b, limit)
    else:
        raise ValueError(f"unknown operator {operator!r}; allowed: + - * / ^")
    return _bounded(result, limit)


def reduce(
    node: Node, step: Callable[[str, Fraction, Fraction], Fraction] = apply
) -> Iterator[tuple[str, Fraction, Fraction, Fraction, Node]]:
    """Works a tree out, one operation at a time, operands before operators, left before right.

    Args:
        node: the tree.
        step: what an operation results in. Later steps follow from what it says, also where
            that is wrong.

    Yields:
        `(operator, a, b, result, rest)`: the operation, and the tree that is left after it.
    """
    while not isinstance(node, Fraction):
        operator, a, b, result, node = _reduce_once(node, step)
        yield operator, a, b, result, node


def _reduce_once(node, step):
    operator, left, right = node
    if not isinstance(left, Fraction):
        *done, left = _reduce_once(left, step)
        return (*done, (operator, left, right))
    if not isinstance(right, Fraction):
        *done, right = _reduce_once(right, step)
        return (*done, (operator, left, right))
    result = step(operator, left, right)
    return operator, left, right, result, result


def _power(base: Fraction, exponent: Fraction, limit: int) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > EXPONENT:
        raise ValueError(f"exponent {exponent}; allowed: whole numbers up to {EXPONENT}")
    if base == 0 and exponent < 0:
        raise ValueError("division by zero")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1
    if bits * abs(exponent) > limit.bit_length():  # before computing it
        raise ValueError("number out of bounds in a power")
    return Fraction(base**exponent.numerator)


def _bounded(number: Fraction, limit: int) -> Fraction:
    if abs(number.numerator) > limit or number.denominator > limit:
        raise ValueError("number out of bounds")
    return number


def _tokens(text: str) -> Iterator[str]:
    text = text.strip()
    at = 0
    for match in _TOKEN.finditer(text):
        if match.start() != at:
            break
        at = match.end()
        token = match[1]
        if token not in ("\\left", "\\right"):
            yield _SAME.get(token, token)
    if at < len(text):
        raise ValueError(f"unexpected {text[at]!r} in {text!r}")


class _Parser:
    """Recursive descent over tokens; every bracket, power and fraction is one level deeper."""

    def __init__(self, tokens: Iterator[str], limit: int):
        self.rest, self.limit = tokens, limit
        self.next = next(tokens, None)

    def take(self) -> str:
        token = self.next
        if token is None:
            raise ValueError("the expression ends too early")
        self.next = next(self.rest, None)
        return token

    def expression(self, depth: int) -> Node:
        if depth > DEPTH:
            raise ValueError(f"expression nested deeper than {DEPTH}")
        node = self.term(depth)
        while self.next in ("+", "-"):
            node = (self.take(), node, self.term(depth))
        return node

    def term(self, depth: int) -> Node:
        node = self.factor(depth)
        while self.next in ("*", "/"):
            node = (self.take(), node, self.factor(depth))
        return node

    def factor(self, depth: int) -> Node:
        minus = False
        while self.next in ("+", "-"):
            minus ^= self.take() == "-"
        node = self.atom(depth)
        if self.next == "^":
            if depth > DEPTH:
                raise ValueError(f"expression nested deeper than {DEPTH}")
            node = (self.take(), node, self.factor(depth + 1))
        if not minus:
            return node
        return -node if isinstance(node, Fraction) else ("*", Fraction(-1), node)

    def atom(self, depth: int) -> Node:
        token = self.take()
        if token in _CLOSE:
            return self.until(_CLOSE[token], depth)
        if token == "\\boxed":
            return self.braces(depth)
        if token == "\\frac":
            above, below = self.braces(depth), self.braces(depth)
            if isinstance(above, Fraction) and isinstance(below, Fraction):
                return apply("/", above, below, self.limit)
            return ("/", above, below)
        if token[0] not in "0123456789.":
            raise ValueError(f"expected a number, found {token!r}")
        number = Fraction(int(token)) if token.isdigit() else Fraction(token)
        return _bounded(number, self.limit)

    def braces(self, depth: int) -> Node:
        if (token := self.take()) != "{":
            raise ValueError(f"expected '{{', found {token!r}")
        return self.until("}", depth)

    def until(self, close: str, depth: int) -> Node:
        node = self.expression(depth + 1)
        if (token := self.take()) != close:
            raise ValueError(f"expected {close!r}, found {token!r}")
        return node
