"""Rules about a run's numbers: each speaks when it holds for several steps in a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

WINDOW = 5
"""Steps in a row that must agree before something is said."""

Line = Mapping[str, Any]
"""What a step logged."""


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, why it matters, and what to do. `step` is where it was first seen."""

    level: Literal["warning", "error"]
    what: str
    why: str
    remedy: str
    step: int | None = None

    def describe(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.what}. {self.why} {self.remedy}"


@dataclass(frozen=True)
class Rule:
    """Speaks when `holds` is true of `window` steps in a row whose lines have all of `keys`.

    `holds` takes the line of a step and the line of the first step that had rows.
    """

    keys: tuple[str, ...]
    holds: Callable[[Line, Line], bool]
    diagnosis: Diagnosis
    window: int = WINDOW


@dataclass
class Streak:
    """A rule, and how many of the last lines that it is about it held for.

    Attributes:
        known: lines that had its keys. first: step of the first of them.
        row: lines in a row that it holds for now. since: step of the first of these.
        at: where the first streak that was long enough began; `None` so far.
    """

    rule: Rule
    known: int = 0
    first: int = 0
    row: int = 0
    since: int = 0
    at: int | None = field(default=None)

    def see(self, line: Line, start: Line) -> None:
        if any(line.get(key) is None for key in self.rule.keys):
            return
        self.first = self.first if self.known else line["step"]
        self.known += 1
        if not self.rule.holds(line, start):
            self.row = 0
            return
        self.since = self.since if self.row else line["step"]
        self.row += 1
        if self.at is None and self.row == self.rule.window:
            self.at = self.since

    def begun(self, finished: bool) -> int | None:
        """The step at which what it speaks of began; a finished run that is shorter than the
        window must show it in all of its steps."""
        if self.at is None and finished and self.known < self.rule.window:
            return self.first if 0 < self.row == self.known else None
        return self.at
