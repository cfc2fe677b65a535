r"""Where the answer of a completion stands, if it was asked for in `<answer>...</answer>`.

Language models write such tags loosely: they leave them open, misspell them (`<<answer>`,
`<>answer>`, `<answer.`), put a `\boxed{}` inside or instead, or write after the closing tag.
`official` reads what a careful reader would. Nothing here executes text, and the work is linear
in its length.
"""

from __future__ import annotations

import re

TAIL = 50_000
"""Characters of a completion that are read, from its end."""
TAGS = 64
"""Opening tags that are looked at, from the last one."""

FRAME = "Respond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>"
"""The text that asks for the tags (d1, arXiv 2504.12216)."""

_SPECIAL = re.compile(r"<\|[\w-]{1,40}\|>|</?s>")
_OPEN = re.compile(r"<[<>\s]{0,8}answer(?![A-Za-z])[.>\s]{0,8}", re.IGNORECASE)
_CLOSE = re.compile(r"</[\s.,]{0,4}answer\s{0,4}>?", re.IGNORECASE)
_END = re.compile(r"</|<\|")
_BOX = re.compile(r"\\?boxed\s{0,4}\{")
_BRACE = re.compile(r"(?<!\\)[{}]")
_NOTHING = re.compile(r"\\?boxed|[\s{}$\\()\[\]<>/.*`]")
_LAST_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)


def readable(completion: str) -> str:
    """The part of a completion that is read: after the thinking, without special tokens."""
    return _SPECIAL.sub("\n", completion[-TAIL:].rsplit("</think>", 1)[-1])


def official(completion: str) -> str | None:
    r"""What a completion gives as its answer; `None` if it marks nothing as one.

    The first of these that holds anything: the last answer tag, closed or not; the last
    `\boxed{}` of the text; what follows the last closing tag. In a tag with a `\boxed{}`, the
    last box is the answer.
    """
    text = readable(completion)
    for tag in reversed(list(_OPEN.finditer(text))[-TAGS:]):
        inside = _END.split(text[tag.end() :], maxsplit=1)[0]
        inside = _OPEN.split(inside, maxsplit=1)[0]
        if not blank(inside):
            return _last_box(inside) or inside
    if box := _last_box(text):
        return box
    closed = list(_CLOSE.finditer(text))
    after = text[closed[-1].end() :] if closed else ""
    return None if blank(after) else after


def blank(text: str) -> bool:
    """Whether text says nothing: an empty box, brackets, dots."""
    return not _NOTHING.sub("", text)


def tagged(completion: str) -> str | None:
    """The inside of the last `<answer>...</answer>`, exactly; `None` without one."""
    _, closing, _ = completion.rpartition("</answer>")
    found = _LAST_TAG.findall(completion) if closing else []
    return found[-1].strip() if found else None


def _last_box(text: str) -> str | None:
    """What is in the last box that holds anything; an open one ends with its line."""
    for box in reversed(list(_BOX.finditer(text))[-TAGS:]):
        inside = _closed(text, box.end())
        if not blank(inside):
            return inside
    return None


def _closed(text: str, start: int) -> str:
    depth = 1
    for brace in _BRACE.finditer(text, start, start + 2048):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start : brace.start()]
    return text[start:].partition("\n")[0]
