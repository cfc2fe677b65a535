"""Processes that work for this one and can be killed: verifiers and users' rewards run in them.

A worker answers requests, one line of JSON each. It has a session and process group of its own,
no standard input, and of this program's environment only what `KEPT` and its owner name. What it
prints is read and dropped, but for the last `SAID` bytes. A request that takes too long, or ends
the process, ends its whole group, and the next request starts another. This contains accidents;
it is no sandbox.

The lower half of this file is the worker's side.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

KEPT = (
    "PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "VIRTUAL_ENV", "TMPDIR", "PYTHONHASHSEED",
    "PYTHONDONTWRITEBYTECODE",
    "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
"""Variables of the environment that every worker gets; none of them holds a secret."""
START = 60.0
"""Seconds a worker may take to start."""
LEAVE = 5.0
"""Seconds an idle worker has to end by itself."""
REPLY = 64 << 20
"""Longest reply, in bytes."""
SAID = 4096
"""Bytes that are kept of what a worker printed last."""
_PIECE = 1 << 16


class WorkerError(Exception):
    """A worker did not answer: `reason`, and `said`, the end of what it printed."""

    def __init__(self, reason: str, said: str):
        super().__init__(reason)
        self.reason, self.said = reason, said


class Worker:
    """A process that answers requests; started when first asked, and again after it ended.

    Attributes:
        module: the module whose function `answer` answers, and whose `ready`, where it has one,
            is called before the first request.
        env: names of further variables of the environment that it gets.
        bare: whether its working folder is an empty one of its own, and not this program's.
        start: seconds it may take to start, and for each of `prelude`.
        grace: seconds that it is waited for beyond a wall limit, which it watches itself to say
            where it stands.
        prelude: requests that each new process is asked first.
        killed: how many processes had to be replaced.
    """

    def __init__(
        self,
        module: str,
        env: Sequence[str] = (),
        bare: bool = False,
        start: float = START,
        grace: float = 0.0,
    ):
        self.module, self.env, self.bare = module, tuple(env), bare
        self.start, self.grace = start, grace
        self.prelude: list[Any] = []
        self.killed = 0
        self.folder: tempfile.TemporaryDirectory | None = None
        self.cwd: str | None = None if bare else os.getcwd()
        self.forget()
        atexit.register(self.stop)
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """As new. In a forked child: the process belongs to the parent."""
        self.process: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()
        self.number, self.said = 0, b""

    def ask(self, request: Any, wall: float) -> Any:
        """The answer to a request, both of them plain JSON values.

        Raises:
            WorkerError: none came within `wall` seconds, or the process ended.
        """
        with self.lock:
            if self.process is not None and self.process.poll() is not None:
                self.kill()  # it ended since the last request
            if self.process is None:
                self._start()
            self.said = b""
            return self._answer(request, wall)

    def stop(self) -> None:
        """Ends the process, if there is one: an idle one may end by itself."""
        with self.lock:
            if self.process is not None:
                assert self.process.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    self.process.stdin.close()
                ends = time.monotonic() + LEAVE
                while self.process.poll() is None and time.monotonic() < ends:
                    self._read(time.monotonic() + 0.02)  # what it still prints must not block it
                self.kill()

    def kill(self) -> None:
        """Ends the process and whatever it started, at once."""
        process, self.process = self.process, None
        assert process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        process.wait()
        if self.folder is not None:
            self.folder.cleanup()
            self.folder = None

    def _start(self) -> None:
        if self.bare:
            self.folder = tempfile.TemporaryDirectory(prefix="autodidact-")
        code = (
            "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
            "from autodidact.tasks.worker import serve; serve(sys.argv.pop())"
        )
        found = [os.path.abspath(place) for place in sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, self.module, json.dumps(found)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={name: os.environ[name] for name in (*KEPT, *self.env) if name in os.environ},
            cwd=self.cwd if self.folder is None else self.folder.name,
            start_new_session=True,
        )
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        self.number, self.said, self.reply = 0, b"", b""
        try:
            self._answer(None, self.start)
        except WorkerError as error:
            raise RuntimeError(
                f"a worker for {self.module} could not be started: it {error.reason}: {error.said}"
            ) from error
        for request in self.prelude:
            self._answer(request, self.start)

    def _answer(self, request: Any, wall: float) -> Any:
        process, begun = self.process, time.monotonic()
        assert process is not None
        assert process.stdin is not None
        line = json.dumps([self.number, wall, request]).encode("ascii") + b"\n"
        try:
            while line or b"\n" not in self.reply:
                if not self._read(begun + wall + self.grace, line):
                    break
                with contextlib.suppress(BlockingIOError, BrokenPipeError):
                    line = line[process.stdin.write(line[:_PIECE]) or 0 :] if line else line
        except BaseException:  # an interrupt, too, leaves a worker that is in the middle of it
            self.kill()
            self.killed += 1
            raise
        reply, whole, self.reply = self.reply.partition(b"\n")
        try:
            number, found = json.loads(reply) if whole and len(reply) <= REPLY else (-1, None)
        except ValueError:  # the answering code wrote into the wrong place
            number, found = -1, None
        if number != self.number:
            raise self._failure(time.monotonic() - begun, wall)
        self.number += 1
        return found

    def _read(self, until: float, line: bytes = b"") -> bool:
        """Wait for something to read (or to write, if `line` is there) and read it; false where
        time is up or the worker has closed its end."""
        process = self.process
        assert process is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdin is not None
        writing = [process.stdin] if line else []
        left = max(0.0, until - time.monotonic())
        ready, ripe, _ = select.select([process.stdout, process.stderr], writing, [], left)
        if process.stderr in ready:
            self.said = (self.said + (process.stderr.read(_PIECE) or b""))[-SAID:]
        if process.stdout in ready:
            piece = process.stdout.read(_PIECE)
            self.reply += piece or b""
            if not piece or len(self.reply) > REPLY:
                return False
        return bool(ready or ripe)

    def _failure(self, seconds: float, wall: float) -> WorkerError:
        """What became of the process, which is ended."""
        process = self.process
        assert process is not None
        assert process.stderr is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0 if seconds < wall else 0.0)
        while piece := process.stderr.read(_PIECE):
            self.said = (self.said + piece)[-SAID:]
        code = process.returncode
        if seconds >= wall:
            reason = f"took longer than {wall:g} s"
        elif code is None:
            reason = f"gave no answer of at most {REPLY} bytes"
        elif code < 0:
            reason = f"ended its process ({signal.strsignal(-code)})"
        else:
            reason = f"ended its process (exit code {code})"
        self.kill()
        self.killed += 1
        return WorkerError(reason, re.sub(r"[^\n -~]", "?", self.said.decode("ascii", "replace")))


def serve(module: str) -> None:
    """The process: answers each line of standard input by `answer` of a module.

    What the answering code prints is no answer, and what it reads from standard input is nothing.
    """
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    answer: Callable[[Any, float], Any] | None = None
    own = os.getpid()
    for line in requests:
        number, wall, request = json.loads(line)
        if answer is None:
            answer, reply = begun(module), None
        else:
            reply = answer(request, wall)
        if os.getpid() != own:
            os._exit(0)  # a fork of the answering code that came back here
        sys.stdout.flush()
        replies.write(json.dumps([number, reply]).encode("ascii") + b"\n")
        replies.flush()


def begun(module: str) -> Callable[[Any, float], Any]:
    """The function `answer` of a module, after its function `ready`."""
    import importlib

    found = importlib.import_module(module)
    if hasattr(found, "ready"):
        found.ready()
    return found.answer


def bounded(**limits: int) -> None:
    """Set limits of this process, such as `AS=2 << 30`; never above the ones it has."""
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, hard))
