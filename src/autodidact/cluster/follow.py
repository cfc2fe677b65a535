"""What a run on other machines writes, told to a watcher of this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autodidact.rules import Diagnosis
from autodidact.run import Directory
from autodidact.session import Watcher
from autodidact.spec import Spec


class Follower:
    """Reads a run directory and tells what is new in it.

    A worker that goes on from a checkpoint writes lines again. They say the same, and are not
    told twice.
    """

    def __init__(self, spec: Spec, out: Path, watcher: Watcher):
        self.spec, self.out, self.watcher = spec, out, watcher
        self.directory: Directory | None = None
        self.told = 0
        self.said: set[str] = set()

    def look(self) -> None:
        """Tell what has been written since the last look."""
        if not (self.out / "run.json").is_file():
            return
        if self.directory is None:
            self.directory = Directory(self.out, resume=True)
            self.watcher.start(self.directory, self.directory.read("run.json"), [])
        lines = _whole(self.out / "metrics.jsonl")
        for line in lines[self.told :]:
            if line["kind"] == "eval":
                self.watcher.point(line)
            elif line["kind"] == "step":
                spent = line["ledger"][self.spec.run.column]
                self.watcher.step(line, self.spec.run.fraction(line["step"], spent))
        self.told = max(self.told, len(lines))
        found = self.out / "diagnoses.json"
        for each in self.directory.read(found.name) if found.exists() else ():
            if each["what"] not in self.said:
                self.said.add(each["what"])
                self.watcher.diagnosis(Diagnosis(**each))

    def end(self) -> None:
        """Tell the rest, and that the run has ended."""
        self.look()
        assert self.directory is not None
        self.watcher.end(self.directory)


def _whole(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, but for one that is being written."""
    if not path.exists():
        return []
    text = path.read_bytes()
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]
