r"""Final answers in model text: finding them, and what makes two of them equal.

`stated` finds the final answer of a completion by the first rule below that finds one; every rule
takes its last match. Only text after the last `</think>` is read, and of that the last `TAIL`
characters.

1. `\boxed{x}`, braces balanced (nested ones too), its backslash perhaps lost.
2. `#### x` at the end of the text, or `#### number` anywhere (`####` is also a Markdown heading).
3. `<answer>x</answer>`, or an `<answer>` that is never closed, unless it says nothing.
4. `A: x` at the start of a line.
5. `The answer is x`, `Final answer: x`, up to the end of the sentence.

`answer` and `final` add a last one:

6. The last number of the text.

Nothing here executes text, and the work on hostile text is bounded.
"""

from __future__ import annotations

import re
from fractions import Fraction

from autodidact.tasks.arithmetic import value
from autodidact.tasks.tagged import blank

TAIL = 50_000
"""Characters of a completion that are read, from its end."""
LENGTH = 512
"""Longest final answer, in characters; a longer one is no answer."""
LIMIT = 10**300
"""Largest numerator or denominator of a number."""

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = rf"(?:{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)"
_CURRENCY = "$€£¥"
# The last number of running text: a sign counts only where nothing stands before it to subtract
# from, and a fraction is one number.
_LAST = re.compile(rf"(?<![0-9.])(?:(?<![\w)])-)?[{_CURRENCY}]?{_NUMBER}(?:/[0-9]+(?![0-9./]))?")
_HEADING = re.compile(rf"####[ \t]*(-?[{_CURRENCY}]?{_NUMBER})[ \t]*(?:\n|$)")
_LINE = re.compile(r"^[ \t*]*A:[ \t*]*(.+)$", re.MULTILINE)
_PHRASE = re.compile(
    r"\banswer\b[^.\n:=]{0,40}?(?:\bis\b[ \t*]*:?|:|=)[\s*]*([^\n]+)", re.IGNORECASE
)
_SENTENCE = re.compile(r"[.!?;](?=\s|$|\*)")
_BOX = re.compile(r"\\?\bboxed[ \t]{0,4}\{")
_SPECIAL = re.compile(r"<\|[\w-]{1,40}\|>|</?s>")

# A number as the whole of an answer, perhaps with a unit: `18`, `-1,234.50`, `3/4`, `1 1/2`.
_PLAIN = rf"-?{_NUMBER}"
_LITERAL = re.compile(rf"(?:{_PLAIN}|-?[0-9]+ ?/ ?[0-9]+)")
_FRACTION = re.compile(r"(-?)([0-9]*) ?\\frac ?\{(-?[0-9]+)\} ?\{([0-9]+)\}")
_MIXED = re.compile(r"(-?)([0-9]+) ([0-9]+ ?/ ?[0-9]+)")
_UNIT = re.compile(r"[A-Za-z][A-Za-z']+|[mglLhs]|[/,:]")
_NO_UNIT = re.compile(
    "pi|sqrt|sin|cos|tan|log|ln|exp|or|to|and|of|than|not|times|plus|minus|negative|over|squared"
    "|cubed|half|hundred|thousand|million|billion",
    re.IGNORECASE,
)


def stated(completion: str) -> str | None:
    """The final answer that a completion states, as written; rules 1 to 5, `None` if none."""
    return _bounded(_stated(_readable(completion)))


def answer(completion: str) -> str | None:
    """The final answer of a completion by all six rules, as written; `None` if none."""
    text = _readable(completion)
    return _bounded(_stated(text) or _last_number(text))


def final(completion: str) -> str | None:
    """As `answer`, and normalised: equal numbers are equal strings.

    `18`, `18.0`, `$18` and `18 eggs` are all `"18"`; `0.5` and `\\frac12` are both `"1/2"`.
    """
    found = answer(completion)
    return None if found is None else canonical(found)


def phrase(completion: str) -> str | None:
    """The stated answer or else the whole completion, by `normalise`: for answers of any kind."""
    found = _bounded(stated(completion) or _readable(completion).strip())
    return None if found is None else normalise(found)


def gold(text: str) -> str:
    r"""The answer in a reference: what stands after `####` or in `\boxed{}`, else all of it."""
    _, mark, last = text.rpartition("####")
    return (last if mark else _boxed(text) or text).strip()


def number(text: str) -> Fraction:
    """The number that an answer is, read past currency, thousands commas, percent and unit.

    Raises:
        ValueError: it is no number, or a calculation (`8/2` too: a whole number is written whole).
    """
    plain = _clean(text)
    left, sign, right = plain.rpartition("=")  # `x = 18` and `9*2 = 18`, but not `a=3, b=4`
    if sign and not re.search("[=,;]", left):
        plain = right.strip()
    if match := _FRACTION.fullmatch(plain):
        minus, whole, above, below = match.groups()
        plain = f"{minus}{whole} {above}/{below}" if whole else f"{minus}{above}/{below}"
    if match := _MIXED.fullmatch(plain):
        minus, whole, part = match.groups()
        mixed = value(whole, LIMIT) + value(part, LIMIT)
        return -mixed if minus else mixed
    found = list(_LAST.finditer(plain))
    if len(found) == 1:
        start, end = found[0].span()
        if _is_unit(plain[:start]) and _is_unit(plain[end:]):
            plain = found[0][0]
    if not _LITERAL.fullmatch(plain):
        raise ValueError(f"{text[:60]!r} is no number; allowed: 18, 1,234.5, 3/4, perhaps a unit")
    result = value(plain, LIMIT)
    if "/" in plain and result.denominator == 1:
        raise ValueError(f"{text[:60]!r} is a division, not its result")
    return result


def canonical(text: str) -> str:
    """`str(number(text))` for a number, else `normalise(text)`."""
    try:
        return str(number(text))
    except ValueError:
        return normalise(text)


def normalise(text: str) -> str:
    r"""Text without what does not change an answer.

    Dropped: `$` and `\$`, `%`, degrees, thousands commas, `\left` and `\right`, LaTeX spaces and
    `\(...\)`, Markdown `*`, backticks and quotes at the ends, spaces round signs, a trailing dot.
    `\dfrac`, `\tfrac`, `\frac12` become `\frac{1}{2}`; `\text{x}` becomes `x`; U+2212 becomes `-`.
    """
    return re.sub(r" ?([-+*/^=(){}\[\],<>|]) ?", r"\1", _clean(text))


def _clean(text: str) -> str:
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.strip(" *`\"'").rstrip(" .*`\"'")


_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\u2212", "-"),
        (r"\\(?:text\w*|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}", r" \1 "),
        (r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[()\[\]]", ""),
        (r"\\[,;:! ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\[dt]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*([0-9])\s*(?=[0-9{])", r"\\frac{\1}"),
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9])", r"\1{\2}"),
        (r"\\?[$%]|[€£¥`°]|\^\s*(?:\\circ|\{\s*\\circ\s*\})", ""),
        (r"(?<=[0-9])(?:,|\{,\})(?=[0-9]{3}(?![0-9]))", ""),
        (r"\s+", " "),
        (r"^([\s*`\"']*)- (?=[0-9.])", r"\1-"),
    )
]


def _readable(completion: str) -> str:
    return _SPECIAL.sub(" ", completion[-TAIL:].rsplit("</think>", 1)[-1])


def _bounded(text: str | None) -> str | None:
    return text if text and len(text) <= LENGTH else None


def _stated(text: str) -> str | None:
    return _boxed(text) or _marked(text) or _tagged(text) or _last_line(text) or _phrase(text)


def _boxed(text: str) -> str | None:
    """The inside of the last box that holds anything; one that a tag closes ends there."""
    for box in reversed(list(_BOX.finditer(text))[-8:]):  # bounds the work on hostile text
        depth = 1
        for brace in re.finditer(r"(?<!\\)[{}]", text[box.end() : box.end() + LENGTH]):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                inside = text[box.end() : box.end() + brace.start()]
                if inner := inside.partition("</")[0].strip():
                    return inner
                break
    return None


def _marked(text: str) -> str | None:
    head, mark, last = text.rstrip().rpartition("####")
    if mark and last.strip() and "\n" not in last.strip() and not head.endswith("#"):
        return last.strip()
    found = _HEADING.findall(text)
    return found[-1] if found else None


def _tagged(text: str) -> str | None:
    _, tag, rest = text.rpartition("<answer>")
    inside = rest.partition("</answer>")[0].strip()
    return inside if tag and not blank(inside) else None


def _last_line(text: str) -> str | None:
    found = _LINE.findall(text)
    return found[-1].strip() if found else None


def _phrase(text: str) -> str | None:
    found = _PHRASE.findall(text)
    return _SENTENCE.split(found[-1], maxsplit=1)[0].strip() or None if found else None


def _last_number(text: str) -> str | None:
    found = _LAST.findall(text)
    return found[-1] if found else None


def _is_unit(text: str) -> bool:
    words = _UNIT.sub(lambda match: "?" if _NO_UNIT.fullmatch(match[0]) else "", text)
    return not words.strip(" .")
