r"""The arithmetic expression that a completion gives as its answer, out of whatever surrounds it.

Models write `\boxed{49 + 55 - 53}`, `49 \times 2 = 98`, "the expression 49 + 55 - 53 evaluates to
51", and tags that never close. `stated` finds what a careful reader would take for the answer:

1. where it stands: `tagged.official`, and if nothing is marked as the answer, the whole text;
2. in there, runs of numbers, operators and brackets, after LaTeX and Unicode signs became plain;
3. of an equation the first side with the most numbers, so that `a+b-c = 104-53 = 51` is `a+b-c`;
4. of several, the last one with the most numbers: shorter ones are steps on the way.

`2(3+4)` is read as a product. Nothing is executed, and the work is linear in the text.
"""

from __future__ import annotations

import re

from autodidact.tasks.arithmetic import LENGTH
from autodidact.tasks.expressions import canonical, leaves
from autodidact.tasks.tagged import blank, official, readable

_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[\u2010-\u2015\u2212\ufe63\uff0d]", "-"),
        (r"[\u00d7\u00b7\u2219\u22c5\u2217\u2715\u2716]|\\(?:times|cdot|ast)(?![A-Za-z])", "*"),
        (r"[\u00f7\u2215\u2044]|\\div(?![A-Za-z])", "/"),
        (r"\uff0b", "+"),
        (r"\\(?:approx|equiv|implies|to|(?:long)?rightarrow|Rightarrow)(?![A-Za-z])", "="),
        (r"[\u2248\u2261\u2192\u21d2\uff1d]|[-=]>", "="),
        (r"\s{0,4}\\left(?![A-Za-z])|\\(?:right|displaystyle)(?![A-Za-z])", ""),
        (r"\\(?:text\w{0,8}|math\w{0,6}|mbox|fbox)\s{0,4}\{([^{}]{0,200})\}", r" \1 "),
        (r"\\[,;:! ]|~|\\q?quad(?![A-Za-z])|\\[()\[\]]|\$|`|[\u00a0\u2009\u202f]", " "),
        (r"\\[dt]?frac\s{0,4}([0-9])\s{0,4}([0-9])", r"(\1/\2)"),
        (r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", ""),
        (r"\\?boxed\s{0,4}(?=\{)", ""),
        (r"(?<=[0-9)}])(\s{0,4})[xX](\s{0,4})(?=[0-9({])", "*"),
        # Two stars are a power between numbers, and bold print elsewhere.
        (r"(?<![0-9) ])\*\*|\*\*(?! {0,4}[0-9(])|(?<![0-9)]) \*\*", " "),
    )
]
_FRACTION = re.compile(r"\\[dt]?frac\s{0,4}\{([^{}]{0,200})\}\s{0,4}\{([^{}]{0,200})\}")
_NESTED = 16
"""Deepest nesting of fractions that is read."""
_BRACKETS = str.maketrans("{}[]", "()()")
_RUN = re.compile(r"(?:[-+*/^()=0-9 ]|\.(?=[0-9]))+")
_APART = re.compile(r"(?<=[0-9)]) +(?=[0-9(])")
_PRODUCT = re.compile(r"(?<=[0-9])(?=\()|(?<=\))(?=[0-9(])")
_POWERS = "\u00b2\u00b3"


def stated(completion: str) -> str | None:
    """The expression a completion gives as its answer, in plain signs; `None` if it gives none."""
    part = official(completion)
    if part is not None:
        return expression(part)
    found = expression(readable(completion), marked=False)
    return found if found is not None and len(leaves(found)) > 1 else None


def final(completion: str) -> str | None:
    """As `stated`, in canonical form: equal strings are one calculation."""
    found = stated(completion)
    return None if found is None else canonical(found)


def expression(text: str, marked: bool = True) -> str | None:
    """The expression in a text that holds one, by rules 2 to 4 of the module.

    Args:
        text: of a model.
        marked: whether all of it is the answer, so that a minus at its start is one; in running
            text, a dash before a blank is punctuation.
    """
    lines = [line for line in plain(text).splitlines() if not blank(line)]
    whole = " ".join(lines)
    if marked and (len(lines) == 1 or "=" not in whole) and _RUN.fullmatch(whole):
        found = _of_equation(whole, dash=False)
        if found is not None:
            return found
    best: tuple[int, str] | None = None
    for line in lines:
        for run in _RUN.finditer(line):
            before, after = line[: run.start()], line[run.end() : run.end() + 1]
            if (run[0][0] == "(" and before[-1:].isalpha()) or after in tuple(_POWERS):
                continue  # a function of it
            for piece in _APART.split(run[0].strip()):
                found = _of_equation(piece, dash=True)
                if found is not None and (best is None or len(leaves(found)) >= best[0]):
                    best = len(leaves(found)), found
    return None if best is None else best[1]


def plain(text: str) -> str:
    r"""Text with its LaTeX and Unicode arithmetic in the signs `+ - * / ( ) =`."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    for _ in range(_NESTED):
        text, count = _FRACTION.subn(r"((\1)/(\2))", text)
        if count == 0:
            break
    return text.translate(_BRACKETS)


def _of_equation(text: str, dash: bool) -> str | None:
    """The side with the most numbers, the first of several; `None` if none can be read."""
    best: tuple[int, str] | None = None
    for side in text.split("="):
        found = _tidy(side, dash)
        if found is not None and (best is None or len(leaves(found)) > best[0]):
            best = len(leaves(found)), found
    return None if best is None else best[1]


def _tidy(text: str, dash: bool) -> str | None:
    """One expression without what stands around it; `None` if it is none."""
    text = text.strip(" *")
    if dash:
        text = re.sub(r"^- +(?=[0-9(])", "", text).rstrip(" -")
    text = _PRODUCT.sub("*", _balanced(text).strip())
    if not 0 < len(text) <= LENGTH:
        return None
    try:
        canonical(text)
    except ValueError:
        return None
    return text


def _balanced(text: str) -> str:
    """Without brackets at either end that nothing closes or opens."""
    spare = 0  # closing brackets too many, so far at most; then what is left open
    depth = 0
    for sign in text:
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            spare, depth = spare + 1, 0
    begins, ends = 0, len(text)
    while begins < ends and (text[begins] == " " or (depth and text[begins] == "(")):
        depth -= text[begins] == "("
        begins += 1
    while begins < ends and (text[ends - 1] == " " or (spare and text[ends - 1] == ")")):
        spare -= text[ends - 1] == ")"
        ends -= 1
    return text[begins:ends]
