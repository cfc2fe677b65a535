r"""When two answers of MATH count as equal in its own release, and in d1's evaluation.

A comparison of texts, after what is listed in `plain` is removed or rewritten. It is stricter than
`verifiers.mathematics`: `0.25` is not `\frac{1}{4}`. Where the published code fails on a text, it
compares the texts as they are; here such a text is a `ValueError` of `plain`.

Source: Measuring Mathematical Problem Solving With the MATH Dataset, arXiv 2103.03874.
"""

from __future__ import annotations

_DROPPED = (
    ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"),
    ("\\left", ""), ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""),
)  # fmt: skip
_UNIT, _BOX = "\\text{ ", "\\boxed{"


def same(one: str, other: str) -> bool:
    """Whether two answers are equal."""
    try:
        return plain(one) == plain(other)
    except ValueError:
        return one == other


def plain(text: str) -> str:
    r"""An answer without what does not count.

    Dropped: line breaks, `\!`, `\left`, `\right`, degrees, `\$`, `\%`, a unit in `\text{ ...}` at
    the end, the name in `x = 3`, spaces. `\sqrt3`, `\frac12`, `1/2` get their braces, `.5` its 0,
    and `0.5` alone is one half.

    Raises:
        ValueError: a text on which the published code fails: two units, a root or a fraction of
            nothing, or a slash between what are no whole numbers.
    """
    for old, new in _DROPPED:
        text = text.replace(old, new)
    text, *units = text.split(_UNIT)
    if len(units) > 1:
        raise ValueError(f"{len(units)} units in an answer; allowed: one")
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if text.startswith("."):
        text = "0" + text
    name, *value = text.split("=")
    if len(value) == 1 and len(name) <= 2:
        text = value[0]
    text = _fractions(_roots(text).replace(" ", ""))
    return _quotient("\\frac{1}{2}" if text == "0.5" else text)


def boxed(text: str) -> str | None:
    r"""The inside of the last `\boxed{}`, or of `\boxed x` up to a `$`; `None` if none is closed.

    An `\fbox{}` counts where there is no other, and keeps its name.
    """
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    start = text.rfind("\\boxed")
    start = text.rfind("\\fbox") if start < 0 else start
    if start < 0:
        return None
    depth = 0
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if text[at] == "}" and depth == 0:
            box = text[start : at + 1]
            return box[len(_BOX) : -1] if box.startswith(_BOX) else box
    return None


def _roots(text: str) -> str:
    first, *roots = text.split("\\sqrt")
    if not all(roots):
        raise ValueError("a root of nothing")
    return first + "".join(
        "\\sqrt" + (root if root[0] == "{" else f"{{{root[0]}}}{root[1:]}") for root in roots
    )


def _fractions(text: str) -> str:
    first, *fractions = text.split("\\frac")
    if not all(fractions):
        raise ValueError("a fraction of nothing")
    made = [first]
    for part in fractions:
        if part[0] != "{" and len(part) < 2:
            return text
        made.append("\\frac" + (part if part[0] == "{" else _braced(part)))
    return "".join(made)


def _braced(part: str) -> str:
    """What follows a `\\frac` without a first brace."""
    below = part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}"
    return f"{{{part[0]}}}{below}"


def _quotient(text: str) -> str:
    if text.count("/") != 1:
        return text
    above, below = map(int, text.split("/"))  # a ValueError where they are no whole numbers
    return f"\\frac{{{above}}}{{{below}}}" if text == f"{above}/{below}" else text
