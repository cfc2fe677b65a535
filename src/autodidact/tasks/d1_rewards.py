r"""The rewards of d1 for GSM8K and MATH, and how its evaluation reads an answer.

Source: d1, arXiv 2504.12216, by its code. What it does by accident is kept, and said; but digits
are those of ASCII here, and the work is linear in the text, where its patterns took the square.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from autodidact.tasks import hendrycks

# Atomic groups `(?>...)` keep the first place that fits: where `.` passes line breaks, no later one
# could fit better, and where it does not, the last pattern has the one other place.
_STRICT = r"(?><reasoning>\n.*?\n</reasoning>\n<answer>\n).*?\n</answer>\n$"
_SOFT = r"(?><reasoning>.*?</reasoning>\s*<answer>).*?</answer>"
_BROKEN = r"(?><reasoning>.*?</reasoning>[^\S\n]*\n\s*<answer>).*?</answer>"
_NUMBER = re.compile(r"-?[0-9]+\.?[0-9]*")
_BOX = "\\boxed{"
_ESCAPED = "\x08oxed"
"""What a backslash and `boxed` are in Python without `r`."""


def gsm8k_reward(completion: str, truth: str, multiline: bool = False) -> float:
    """The reward of GSM8K, of up to 4: the sum of

        up to 0.5   `tags`
        0.5         a text that is <reasoning> and <answer>, every tag in a line of its own
        0.5         a text that begins with the two, in whatever lines
        0.5         an answer of nothing but digits
        2           the right answer, compared as text: `1,000` is not `1000`

    The answer is what follows the last `<answer>`.

    Args:
        multiline: whether what is between two tags may have several lines. In the version of the
            code that is followed here it may not: as the first form needs line breaks and the
            second cannot pass one, no text earns both, and most earn neither. Another version of
            it allows for them.
    """
    given = completion.rpartition("<answer>")[2].partition("</answer>")[0].strip()
    flags = re.DOTALL if multiline else re.NOFLAG
    strict, soft, broken = (
        re.match(form, completion, flags) is not None for form in (_STRICT, _SOFT, _BROKEN)
    )
    digits = given.isascii() and given.isdigit()
    return tags(completion) + 0.5 * (strict + (soft or broken) + digits) + 2.0 * (given == truth)


def tags(completion: str) -> float:
    """An eighth for each of four tags that comes once, in a line of its own.

    After the last one, each character costs 0.001, twice: once for whatever follows it with its
    line, and once for whatever follows it but for one character. A text that ends with the tag
    and no line break pays the first for its whole length.
    """
    found = sum(
        0.125 * (completion.count(tag) == 1)
        for tag in ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>")
    )
    if completion.count("\n<answer>\n") == 1:
        found -= 0.001 * len(completion.rpartition("\n</answer>\n")[2])
    if completion.count("\n</answer>") == 1:
        found -= 0.001 * (len(completion.rpartition("\n</answer>")[2]) - 1)
    return found


def gsm8k_number(completion: str) -> float | None:
    """How its evaluation reads a number: the first box that has one; else the last number of the
    first answer tag, or of what follows the last tag that opens, or of the whole text."""
    for box in _boxes(completion):
        if (found := _number(box.strip(), 0)) is not None:
            return found
    rest = completion.rpartition("<answer>")[2].partition("</answer>")[0]
    for text in (_first_tag(completion) or "", rest):
        if (found := _number(text.strip(), -1)) is not None:
            return found
    return None


def math_reward(completion: str, truth: str) -> float:
    r"""The reward of MATH: 2 for the answer, and half of 2, 1.5, 1 or .5 for the form.

    The answer is what is in the last `\boxed{}`, or the whole text without one. The form has 1 for
    an answer tag, and 1 for a box in the first of them, or anywhere without a tag, or else .5. But
    the code looks for an escape that no text has, a backspace and `oxed`. So a tag earns .75 and
    none .25, box or not, and that is what this returns.
    """
    found = hendrycks.boxed(completion)
    right = hendrycks.same(completion if found is None else found, truth)
    _, *opened = completion.split("<answer>")
    inside = opened[0].partition("</answer>")[0] if opened else completion
    form = (1.0 if opened else 0.0) + (1.0 if _ESCAPED in inside else 0.5)
    return 2.0 * right + 0.5 * form


def math_answer(completion: str) -> str | None:
    """How its evaluation reads an answer: in the last box, or else in the first answer tag."""
    tag = _first_tag(completion)
    return hendrycks.boxed(completion) or (tag if tag is None else tag.strip())


def _first_tag(text: str) -> str | None:
    """What is in the first answer tag that is closed; `None` without one."""
    inside, closed, _ = text.partition("<answer>")[2].partition("</answer>")
    return inside if closed else None


def _boxes(text: str) -> Iterator[str]:
    """What is in each box, up to the first brace that closes, in its line."""
    for line in text.split("\n"):
        while True:
            inside, closed, rest = line.partition(_BOX)[2].partition("}")
            if not closed:
                break
            yield inside
            line = rest


def _number(text: str, which: int) -> float | None:
    """The number that a text is, or else one of those that it holds."""
    try:
        return float(text if text.isascii() else "no number")
    except ValueError:
        found = _NUMBER.findall(text)
        return float(found[which]) if found else None
