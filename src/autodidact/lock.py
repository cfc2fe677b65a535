"""One process for one run directory."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = ".lock"
"""Holds the process id and the host of who has locked the directory."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While this is open, the directory is this process's alone. It is made if need be.

    The system holds the lock for the process, so one that is killed leaves none behind: a file
    of that name without a lock on it says nothing.

    Raises:
        ValueError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    handle = _taken(path)
    try:
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        # First the name, then the lock: who gets the lock sees that the name is gone.
        path.unlink(missing_ok=True)
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _taken(path: Path) -> int:
    """An open file of that name, with its lock."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
            os.close(handle)
            raise ValueError(
                f"{path.parent} is in use by {owner}: wait for its end, or stop it"
            ) from error
        if _is(path, handle):
            os.ftruncate(handle, 0)
            return handle
        os.close(handle)  # its owner ended in between, and took the name away


def _is(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
