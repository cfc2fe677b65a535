"""A reward that stalls once, so that a test can kill who trains at a known moment."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

LIMIT = 120.0
"""Seconds after which a test gives up to wait."""

REWARD = """
import time
from pathlib import Path

HERE = Path(__file__).parent


def reward(prompts, completions, **columns):
    if len(completions) > 2:  # a step's, not the few that an arm looks at when it ends
        with (HERE / "calls").open("a") as file:
            file.write("x")
    count = len((HERE / "calls").read_text()) if (HERE / "calls").exists() else 0
    if count > {after} and not (HERE / "stalled").exists():
        (HERE / "stalled").touch()
        end = time.monotonic() + {limit}
        while not (HERE / "killed").exists() and time.monotonic() < end:
            time.sleep(0.02)
    return [sum(map(ord, text)) % 7 / 6 for text in completions]
"""


@dataclass
class Kill:
    """Kills whoever holds the lock of a run directory as soon as its reward stalls.

    Attributes:
        folder: holds the reward. after: calls for steps that do not stall.
        before: what `metrics.jsonl` held at the kill.
    """

    folder: Path
    after: int
    before: str = field(default="", init=False)

    def __post_init__(self):
        self.folder.mkdir()
        (self.folder / "rewards.py").write_text(REWARD.format(after=self.after, limit=LIMIT))

    @property
    def rewards(self) -> str:
        return f"{self.folder / 'rewards.py'}:reward"

    def never(self) -> None:
        """From now on nothing stalls."""
        (self.folder / "stalled").touch()

    def stalled(self) -> None:
        """Wait until it does."""
        until(lambda: (self.folder / "stalled").exists())

    def kill(self, out: Path, pid: int | None = None) -> None:
        """Kill a process, by default the one that writes `out`, and let the reward go on."""
        self.before = (out / "metrics.jsonl").read_text()
        os.kill(pid or holder(out), signal.SIGKILL)
        (self.folder / "killed").touch()

    def in_background(self, out: Path) -> threading.Thread:
        """Wait and kill in a thread, beside the run."""

        def work() -> None:
            self.stalled()
            self.kill(out)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread


def holder(out: Path) -> int:
    """The process that has the lock of a run directory."""
    return int((out / ".lock").read_text().split()[1])


def until(true) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def lines(out: Path, name: str = "metrics.jsonl") -> list[dict]:
    """The lines of a file of a run, without what no two runs have in common."""
    found = [json.loads(line) for line in (out / name).read_text().splitlines()]
    for each in found:
        for key in ("seconds", "peak_bytes", "reused"):
            each.get("ledger", {}).pop(key, None)
    return found
