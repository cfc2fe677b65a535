r"""Mathematical equality by math-verify, where neither a hang nor a crash can do harm.

math-verify limits its time by `SIGALRM`, which works in the main thread only and cannot interrupt
one long operation on big integers (`9^{9^{9^9}}`). So it runs in a process of its own, kept
between calls, bounded in memory and processor time, and killed at a wall limit. This contains
accidents; it is no sandbox. Text reaches math-verify as LaTeX only, never as a Python expression.

This file is also that process: it imports nothing of the package.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import select
import subprocess
import sys
import threading
from functools import lru_cache

WALL = 5.0
"""Seconds one comparison may take."""
START = 60.0
"""Seconds the process may take to start."""
LENGTH = 512
"""Longest text compared, in characters."""
DEPTH = 32
"""Deepest nesting of brackets."""
MEMORY = 2 << 30
"""Bytes of address space the process may use."""

# Powers of powers, large exponents and factorials, numbers of more than 100 digits, control
# characters: no answer needs them, and they are what keeps a computer algebra system busy.
_BUSY = re.compile(
    r"\^[\s{]*-?[0-9]{4}|\^[^^]*?[0-9][\s{]*\^|\*\s*\*|[0-9]{3}[\s})]*!|![\s})]*!"
    r"|[0-9]{101}|[\x00-\x08\x0e-\x1f]"
)


@lru_cache(maxsize=10_000)
def equal(gold: str, answer: str) -> bool:
    """Whether two LaTeX texts are the same mathematics; what cannot be compared is not."""
    if not (_comparable(gold) and _comparable(answer)):
        return False
    return WORKER.ask(gold, answer)


def _comparable(text: str) -> bool:
    if len(text) > LENGTH or _BUSY.search(text):
        return False
    depth = deepest = 0
    for bracket in re.findall(r"[{}()\[\]]", text):
        depth += 1 if bracket in "{([" else -1
        deepest = max(deepest, depth)
    return deepest <= DEPTH


class _Worker:
    """The process; started when first asked, started again after it was killed."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """As new. In a forked child: the process belongs to the parent."""
        self.process: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()
        self.killed = 0

    def ask(self, gold: str, answer: str) -> bool:
        with self.lock:
            if self.process is not None and self.process.poll() is not None:
                self.stop()  # it died since the last call
            if self.process is None:
                self.process = _started()
            line = json.dumps([gold, answer]) + "\n"
            reply = _exchange(self.process, line.encode("ascii"), WALL)
            if not reply:
                self.stop()
                self.killed += 1
            return reply == b"true\n"

    def stop(self) -> None:
        """Ends the process, if there is one."""
        if self.process is not None:
            _end(self.process)
            self.process = None


def _started() -> subprocess.Popen[bytes]:
    kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "VIRTUAL_ENV")
    process = subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env={name: os.environ[name] for name in kept if name in os.environ},
        start_new_session=True,
    )
    if _exchange(process, b"", START) != b"ready\n":
        _end(process)
        raise RuntimeError("math-verify could not be started; is the package installed?")
    return process


def _exchange(process: subprocess.Popen[bytes], line: bytes, limit: float) -> bytes:
    """The next line that the process writes within `limit` seconds; empty if none."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
    except BrokenPipeError:
        return b""
    ready, _, _ = select.select([process.stdout], [], [], limit)
    return process.stdout.readline() if ready else b""


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


WORKER = _Worker()
"""The one process of this program."""
atexit.register(WORKER.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WORKER.forget)


def _serve() -> None:
    """The process: reads `[gold, answer]` a line, answers `true` or `false`."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(text: str) -> list:
        latex = "$" + re.sub(r"\\?\$|\s+", " ", text) + "$"
        return parse(latex, config, fallback_mode="no_fallback", parsing_timeout=None)

    print("ready", file=out, flush=True)
    for line in sys.stdin:
        spent = resource.getrusage(resource.RUSAGE_SELF)
        ends = int(spent.ru_utime + spent.ru_stime + 2 * WALL) + 1  # also without a parent
        resource.setrlimit(resource.RLIMIT_CPU, (ends, resource.RLIM_INFINITY))
        gold, answer = (read(text) for text in json.loads(line))
        same = bool(gold and answer and verify(gold, answer, timeout_seconds=None))
        print(json.dumps(same), file=out, flush=True)


if __name__ == "__main__":
    _serve()
