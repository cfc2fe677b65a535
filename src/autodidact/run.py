"""A run: how long, how fast, how often looked at; and the directory it writes."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from autodidact import files, lock
from autodidact.guards import Guard
from autodidact.ledger import COLUMNS
from autodidact.names import choose
from autodidact.redact import redacted
from autodidact.strict import numbers, strict

Schedule = Literal["constant", "cosine"]
Keep = Literal["last", "best"]
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Run:
    """How a method is run.

    Attributes:
        steps: updates to make; or
        budget: stop when this much of the ledger column `column` is spent. Without either a run
            makes 100 steps.
        lr: learning rate of AdamW after `warmup` steps.
        schedule: "cosine" falls to 0 at the end of the steps or of the budget.
        rows: rows drawn in a step.
        micro_rows: at most this many rows in one forward and backward pass; all by default.
        grad_clip: largest norm of the gradient; 0 for no bound.
        seed: of the problem order, of sampling and of adapters.
        eval_points: evaluations after the start, evenly spaced over the run; 0 for one at the end.
        eval_problems: held-out problems looked at each time; all of them if fewer.
        eval_samples: completions of each, beside the greedy one.
        eval_length: at most this many tokens each; the method's length by default.
        save_every: steps between checkpoints; 0 saves at the end only.
        keep: "best" also keeps the checkpoint of the best sampled accuracy on the validation
            half of the held-out problems; results are then read on the other half.
        staleness: updates that the weights which draw a batch may lag behind. Above 0, the batch of
            step s is drawn by the weights before update s - staleness, in a thread, while the
            trainer works on earlier ones; at 0 by those before update s. A batch is charged when
            it is learned from: what a budget leaves drawn and unused at its end is not.
        max_skips: updates that are skipped in a row, for a loss or gradient that is not finite,
            until the run stops; 1 stops it at the first.
        guard: what happens when numbers run away (KL, entropy, length ...): "stop" warns, and
            stops the run at thresholds far beyond; "warn" only warns; "off" does neither.
    """

    steps: int | None = None
    budget: float | None = None
    column: str = "generated"
    lr: float = 1e-5
    schedule: Schedule = "constant"
    warmup: int = 0
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    rows: int = 32
    micro_rows: int | None = None
    seed: int = 0
    eval_points: int = 4
    eval_problems: int = 128
    eval_samples: int = 8
    eval_length: int | None = None
    save_every: int = 0
    keep: Keep = "last"
    staleness: int = 0
    max_skips: int = 3
    guard: Guard = "stop"

    def __post_init__(self):
        choose("budget column", self.column, COLUMNS)
        positive = ("steps", "budget", "lr", "rows", "micro_rows", "eval_problems", "eval_samples")
        for name in (*positive, "eval_length", "max_skips"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} is not allowed: it must be above 0")
        least = ("warmup", "weight_decay", "grad_clip", "eval_points", "save_every", "staleness")
        for name in least:
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name}={getattr(self, name)} is not allowed: it must be at least 0"
                )
        for name in ("budget", "lr", "weight_decay", "grad_clip"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name}={value} is not allowed: it must be a finite number")
        choose("guard", self.guard, get_args(Guard))
        if self.steps is None and self.budget is None:
            object.__setattr__(self, "steps", 100)

    def fraction(self, step: int, spent: float) -> float:
        """How much of the run is done, from 0 to 1, after so many steps and so much spending."""
        parts = [0.0]
        if self.steps is not None:
            parts.append(step / self.steps)
        if self.budget is not None:
            parts.append(spent / self.budget)
        return min(1.0, max(parts))


def describe_machine() -> dict[str, Any]:
    """What the numbers of a run depend on beside its options."""
    import torch

    from autodidact import parallel

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": parallel.ranks(),
        "gpu": gpu,
    }


def describe_versions() -> dict[str, str]:
    from importlib import metadata

    packages = ("autodidact", "torch", "transformers", "tokenizers", "peft", "numpy")
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in packages
    }


def git_revision() -> str | None:
    """The commit of the working directory, "-dirty" with changes; `None` outside a repository."""
    import subprocess

    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


class Directory:
    """A run directory. It is made when the first file is written, and never overwritten."""

    writes = True

    def __init__(self, path: Path | str | None = None, *, resume: bool = False):
        self.path = Path(path) if path is not None else self._fresh()
        if resume:
            if not (self.path / "run.json").is_file():
                raise ValueError(f"{self.path} is no run directory: it has no run.json")
        elif self.path.exists() and not (self.path.is_dir() and self._empty()):
            raise ValueError(f"{self.path} exists and is not empty; a run is never overwritten")

    @classmethod
    def of_another(cls, path: Path) -> Directory:
        """A directory into which another process of the same run writes, and this one does not."""
        found = cls.__new__(cls)
        found.path, found.writes = path, False
        return found

    def _empty(self) -> bool:
        """Whether there is nothing but what a process left that was killed before it began."""
        found = self.path.iterdir()
        return all(files.is_temporary(path) or path.name == lock.NAME for path in found)

    @staticmethod
    def _fresh() -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        path, number = Path("runs") / stamp, 1
        while path.exists():
            number += 1
            path = Path("runs") / f"{stamp}-{number}"
        return path

    def write(self, name: str, content: Any) -> Path:
        """A JSON file, written whole or not at all."""
        target = self.path / name
        if not self.writes:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(redacted(content), indent=1, ensure_ascii=False, default=str)
        files.write(target, text)
        return target

    def append(self, name: str, *lines: Mapping[str, Any]) -> None:
        """Lines at the end of a JSONL file: all of them or, with an `OSError`, none."""
        if not self.writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        plain = [strict(line) for line in redacted(lines)]
        written = [json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in plain]
        files.append(self.path / name, "".join(written))

    def read(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The lines of a JSONL file, without a last one that a killed process left torn.

        Raises:
            ValueError: any other line is damaged; file and line are named.
        """
        for _, line in files.lines(self.path / name):
            yield numbers(line) if name == METRICS else line

    def cut(self, name: str, keep: Callable[[Mapping[str, Any]], bool]) -> None:
        """Drop all other lines: those that a resumed run will write again. The rest stay as is."""
        if self.writes and (self.path / name).exists():
            kept = [text + "\n" for text, line in files.lines(self.path / name) if keep(line)]
            files.write(self.path / name, "".join(kept))

    def sync(self, name: str) -> None:
        """Have the disk hold what was appended to a file."""
        if self.writes and (self.path / name).exists():
            with files.named(self.path / name):
                files.sync(self.path / name)


def settings(run: Run) -> dict[str, Any]:
    return asdict(run)
