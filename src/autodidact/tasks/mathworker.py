r"""Mathematical equality by math-verify, where neither a hang nor a crash can do harm.

math-verify limits its time by `SIGALRM`, which works in the main thread only and cannot interrupt
one long operation on big integers (`9^{9^{9^9}}`). So it runs in a process of its own (`worker`),
kept between calls, in an empty folder, bounded in memory and processor time, without files to
write or processes to start, and killed at a wall limit. This contains accidents; it is no sandbox.
Text reaches math-verify as LaTeX only, never as a Python expression.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

from autodidact.tasks.worker import Worker, WorkerError, bounded

WALL = 5.0
"""Seconds one comparison may take."""
LENGTH = 512
"""Longest text compared, in characters."""
DEPTH = 32
"""Deepest nesting of brackets."""
MEMORY = 2 << 30
"""Bytes of address space the process may use."""
FILES = 64
"""Files it may have open."""

# Powers of powers, large exponents and factorials, numbers of more than 100 digits, control
# characters: no answer needs them, and they are what keeps a computer algebra system busy.
_BUSY = re.compile(
    r"\^[\s{]*-?[0-9]{4}|\^[^^]*?[0-9][\s{]*\^|\*\s*\*|[0-9]{3}[\s})]*!|![\s})]*!"
    r"|[0-9]{101}|[\x00-\x08\x0e-\x1f]"
)

WORKER = Worker(__name__, bare=True)
"""The one process of this program."""


@lru_cache(maxsize=10_000)
def equal(gold: str, answer: str) -> bool:
    """Whether two LaTeX texts are the same mathematics; what cannot be compared is not."""
    if not (_comparable(gold) and _comparable(answer)):
        return False
    try:
        return WORKER.ask([gold, answer], WALL)
    except WorkerError:
        return False


def _comparable(text: str) -> bool:
    if len(text) > LENGTH or _BUSY.search(text):
        return False
    depth = deepest = 0
    for bracket in re.findall(r"[{}()\[\]]", text):
        depth += 1 if bracket in "{([" else -1
        deepest = max(deepest, depth)
    return deepest <= DEPTH


@cache
def _configuration() -> tuple:
    from math_verify import LatexExtractionConfig

    return (LatexExtractionConfig(boxed_match_priority=0),)


def ready() -> None:
    """In the process: imports what it needs, and gives up what it does not."""
    import math_verify  # noqa: F401  before files and threads are forbidden

    _configuration()
    bounded(AS=MEMORY, FSIZE=0, NOFILE=FILES, NPROC=0)


def answer(request: Any, wall: float) -> bool:
    """In the process: whether `[gold, answer]` are equal."""
    import resource

    from math_verify import verify

    spent = resource.getrusage(resource.RUSAGE_SELF)
    ends = int(spent.ru_utime + spent.ru_stime + 2 * wall) + 1  # also without a parent
    resource.setrlimit(resource.RLIMIT_CPU, (ends, resource.RLIM_INFINITY))
    gold, found = (_read(text) for text in request)
    return bool(gold and found and verify(gold, found, timeout_seconds=None))


def _read(text: str) -> list:
    from math_verify import parse

    latex = "$" + re.sub(r"\\?\$|\s+", " ", text) + "$"
    return parse(latex, _configuration(), fallback_mode="no_fallback", parsing_timeout=None)
