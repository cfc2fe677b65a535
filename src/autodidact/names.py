"""Help for a mistyped name; names that are parts of paths."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from difflib import get_close_matches


def nearest(given: str, allowed: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the allowed name nearest to the given one, or `""`."""
    match = get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def choose(kind: str, given: str, allowed: Iterable[str]) -> str:
    """`given` if it is allowed; else a `ValueError` that names the choices and the nearest."""
    allowed = list(allowed)
    if given not in allowed:
        raise ValueError(
            f"{kind} {given!r} is unknown; allowed: {', '.join(allowed)}" + nearest(given, allowed)
        )
    return given


def at_least_one(**given: int) -> None:
    """`ValueError` for a number below 1."""
    for name, value in given.items():
        if value < 1:
            raise ValueError(f"{name}={value} is not allowed: it must be at least 1")


LONGEST = 96
"""Characters of a name that is part of a path."""
_PART = re.compile(rf"(?!\.)[A-Za-z0-9._-]{{1,{LONGEST}}}")


def part(kind: str, given: object) -> str:
    """`given` if it may be a part of a path; a `ValueError` for what could lead out of a folder."""
    if not isinstance(given, str) or not _PART.fullmatch(given):
        raise ValueError(
            f"{kind} {given!r} is no name for a file or folder; allowed: 1 to {LONGEST} letters, "
            "digits and . _ -, no dot first"
        )
    return given


def as_part(text: str) -> str:
    """A name that may be a part of a path, from any text: what is not allowed becomes a hyphen.

    A long text is cut, and told apart from others that begin like it by a digest.
    """
    found = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "-"
    if len(found) > LONGEST:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        found = f"{found[: LONGEST - 9]}-{digest}"
    return found
