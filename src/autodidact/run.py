"""A run: how long, how fast, how often looked at; and the directory it writes."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from autodidact.ledger import COLUMNS
from autodidact.names import choose

Schedule = Literal["constant", "cosine"]
Keep = Literal["last", "best"]


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
        max_skips: updates in a row that may be skipped for a loss or gradient that is not finite.
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

    def __post_init__(self):
        choose("budget column", self.column, COLUMNS)
        positive = ("steps", "budget", "lr", "rows", "micro_rows", "eval_problems", "eval_samples")
        for name in (*positive, "eval_length"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} is not allowed: it must be above 0")
        least = ("warmup", "weight_decay", "grad_clip", "eval_points", "save_every", "staleness")
        for name in least:
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name}={getattr(self, name)} is not allowed: it must be at least 0"
                )
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

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
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

    def __init__(self, path: Path | str | None = None, *, resume: bool = False):
        self.path = Path(path) if path is not None else self._fresh()
        if resume:
            if not (self.path / "run.json").is_file():
                raise ValueError(f"{self.path} is no run directory: it has no run.json")
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(f"{self.path} exists and is not empty; a run is never overwritten")

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
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, ensure_ascii=False, default=str)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        return target

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """One line at the end of a JSONL file."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def read(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        path = self.path / name
        if path.exists():
            with path.open(encoding="utf-8") as file:
                yield from (json.loads(line) for line in file if line.strip())

    def cut(self, name: str, step: int) -> None:
        """Drop the lines after a step: those a resumed run will write again."""
        kept = [line for line in self.lines(name) if line.get("step", 0) <= step]
        target = self.path / name
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.write_text(
            "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), encoding="utf-8"
        )
        temporary.replace(target)


def settings(run: Run) -> dict[str, Any]:
    return asdict(run)
