"""The lines that a run writes as it goes: metrics.jsonl and samples.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autodidact.redact import redacted
from autodidact.run import Directory

LINES = ("metrics.jsonl", "samples.jsonl")


class Journal:
    """Appends lines; those that cannot be written wait in memory, and are written with the next.

    Attributes:
        waiting: lines that are not written yet, by file.
        told: whether that was said.
    """

    def __init__(self, directory: Directory, warn: Callable[[str], None]):
        self.directory, self.warn = directory, warn
        self.waiting: dict[str, list[Any]] = {name: [] for name in LINES}
        self.told = False

    def add(self, name: str, *lines: Mapping[str, Any]) -> None:
        """Lines at the end of a file. A disk that is full does not stop a training."""
        self.waiting[name] += redacted(lines)
        try:
            self._write(name)
        except OSError as error:
            self.say(error)

    def say(self, error: OSError) -> None:
        """Tell of a file that cannot be written, once."""
        if not self.told:
            self.told = True
            self.warn(
                f"{error.filename}: {error.strerror}; training goes on, and what could not be "
                "written is kept and tried again"
            )

    def late(self) -> dict[str, list[Any]]:
        """What still waits, for a checkpoint to keep; all else is on the disk."""
        for name in LINES:
            self.add(name)
            self.directory.sync(name)
        return {name: lines for name, lines in self.waiting.items() if lines}

    def close(self) -> None:
        """Raise `OSError` if lines can still not be written."""
        for name in LINES:
            self._write(name)

    def back_to(self, step: int, late: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
        """Make the files what they were after a step; returns the metrics.

        The evaluation of the best checkpoint, with which a run ends, is dropped too.

        Args:
            late: lines that a checkpoint kept. They may have been written after it.
        """
        for name in LINES:
            self.directory.cut(
                name, lambda line: line.get("step", 0) <= step and "checkpoint" not in line
            )
            lines = late.get(name, [])
            if lines and list(self.directory.lines(name))[-len(lines) :] != lines:
                self.directory.append(name, *lines)
        return list(self.directory.lines("metrics.jsonl"))

    def _write(self, name: str) -> None:
        if self.waiting[name]:
            self.directory.append(name, *self.waiting[name])
            self.waiting[name].clear()
