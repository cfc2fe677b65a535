"""SIGINT and SIGTERM: a run ends between two steps, with a checkpoint and a line how to go on.

The first signal is noted while steps are made and ends the program where it is elsewhere. From
then on the system's own handlers stand, so that a second one ends the process at once.
"""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GRACE = 25.0
"""Seconds that what is under way may still take after a signal: a step, and an evaluation that
follows it. Slurm and Kubernetes kill 30 s after theirs."""

OURS: dict[int, tuple[Any, ...]] = {
    signal.SIGINT: (signal.default_int_handler, signal.SIG_IGN),
    signal.SIGTERM: (signal.SIG_DFL,),
}
"""Signals that are caught, where nobody else does. A shell's background job ignores SIGINT."""


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop.

    Attributes:
        code: the exit code that says so: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class _Catch:
    """Handlers of a process that have been put up.

    Attributes:
        place: the run directory. number: the signal that came; `None` before.
        later: whether a signal is noted rather than raised.
        timer: ends the process when the time is up.
    """

    def __init__(self, place: Path):
        self.place, self.later = place, False
        self.number: int | None = None
        self.timer: threading.Timer | None = None

    def receive(self, number: int, frame: Any) -> None:
        for each in OURS:
            signal.signal(each, signal.SIG_DFL)
        self.number = number
        if not self.later:
            raise Stopped(number)
        name = signal.Signals(number).name
        _say(f"{name}: stopping after this step, or in {GRACE:g} s; once more to stop at once")
        self.timer = threading.Timer(GRACE, self.leave, (128 + number,))
        self.timer.daemon = True
        self.timer.start()

    def leave(self, code: int) -> None:
        """End the process as it is: what has been written stands."""
        _say(f"the step takes longer than {GRACE:g} s and is left; {stopped(self.place)}")
        os._exit(code)

    def check(self) -> None:
        """Raise what was noted."""
        if self.timer is not None:
            self.timer.cancel()
        if self.number is not None:
            raise Stopped(self.number)


_now: _Catch | None = None


@contextmanager
def caught(place: Path) -> Iterator[None]:
    """While this is open, signals are `Stopped`; those that another one handles stay as they are.

    Only the main thread gets signals. Where it is open already, this changes nothing.
    """
    global _now
    known = {number: signal.getsignal(number) for number in OURS}
    free = all(known[number] in plain for number, plain in OURS.items())
    if not free or threading.current_thread() is not threading.main_thread():
        yield
        return
    outside, _now = _now, _Catch(place)
    try:
        for number, handler in known.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, _now.receive)
        yield
    finally:
        if _now.timer is not None:
            _now.timer.cancel()
        _now = outside
        for number, handler in known.items():
            signal.signal(number, handler)


@contextmanager
def later() -> Iterator[Callable[[], int | None]]:
    """While this is open, signals are noted; at its end what was noted is raised as `Stopped`.

    Gives a function that says which one was; `None` before.
    """
    catch = _now
    if catch is None:
        yield lambda: None
        return
    catch.later = True
    try:
        yield lambda: catch.number
    finally:
        catch.later = False
    catch.check()


def stopped(place: Path) -> str:
    """How to go on with a run that ended before its end."""
    from autodidact import checkpoint

    if not (place / "run.json").exists():
        return "stopped before the start; nothing was written"
    begun = "" if checkpoint.complete(place / "checkpoints") else " (from its start)"
    return f"stopped; go on with: autodidact train --resume {shlex.quote(str(place))}{begun}"


def _say(text: str) -> None:
    """A line on standard error. Not by `print`, which a handler may have interrupted."""
    os.write(2, f"\n{text}\n".encode(errors="backslashreplace"))
