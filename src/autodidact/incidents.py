"""What went wrong in a step: lines of metrics.jsonl, and folders from which it can be replayed.

    faults/step-000012/
        batch.safetensors, batch.json   the batch, before its credit
        fault.json                      where the numbers were not finite, and what the update was
        checkpoint/                     the training, if its weights moved since the last of these

An update that is not made changes nothing, so that a streak of them needs one checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autodidact import checkpoint, parallel
from autodidact.batch import Batch, join
from autodidact.faults import say
from autodidact.files import named, sync_all, temporary, write
from autodidact.memory import MEMORY
from autodidact.problem import Problem
from autodidact.redact import redacted
from autodidact.serial import batch_of_tensors, tensors_of
from autodidact.strict import numbers, strict
from autodidact.train import Training

KEPT = 8
"""Steps that are kept for replay in a run; later ones are in metrics.jsonl only."""

Line = dict[str, Any]


def name_of(step: int) -> str:
    return f"step-{step:06d}"


class Incidents:
    """Those of a run.

    Attributes:
        held: updates that had been made, and the fault whose checkpoint holds these weights.
    """

    def __init__(self, training: Training, directory: Path):
        self.training, self.folder = training, directory / "faults"
        self.held: tuple[int, str] | None = None

    def of_step(self, batch: Batch) -> list[Line]:
        """Lines about the step just made, on this batch; its fault is kept for replay."""
        step = self.training.step
        found: list[Line] = [
            {"kind": "fault", "step": step, "what": "memory", "say": text} for text in MEMORY.tell()
        ]
        fault = self.training.fault
        if fault is not None:
            place = self._keep(batch, fault)
            kept = "" if place is None else f"; kept in {place.relative_to(self.folder.parent)}"
            where = "; ".join(map(say, fault["found"])) or "nowhere: it was not the same twice"
            text = (
                f"step {step} made no update: loss {fault['loss']}, gradient norm "
                f"{fault['grad_norm']}, not finite first in {where}{kept}"
            )
            kept_at = None if place is None else str(place.relative_to(self.folder.parent))
            found.append(
                {
                    "kind": "fault", "step": step, "what": "numbers", "say": text, **fault,
                    "kept": kept_at,
                }
            )  # fmt: skip
        return found

    def _keep(self, batch: Batch, fault: Mapping[str, Any]) -> Path | None:
        """Write the folder of this step, unless there are enough. All ranks call it."""
        target = self.folder / name_of(self.training.step)
        if parallel.first(lambda: self._full(target)):
            return None
        updates = self.training.models.ledger.optimizer_steps
        if self.held is None or self.held[0] != updates:
            self.held = (updates, target.name)
        new = temporary(target)
        tensors, described = _whole(self.training, batch)
        known = {**fault, "step": self.training.step, "state": self.held[1]}

        def begin() -> None:
            for path in (new, target):
                shutil.rmtree(path, ignore_errors=True)
            new.mkdir(parents=True)
            keep_batch(new, tensors, described)
            said = json.dumps(strict(redacted(known)), indent=1, allow_nan=False)
            write(new / "fault.json", said)

        def finish() -> None:
            sync_all(new)
            new.rename(target)

        parallel.first(begin)
        if self.held[1] == target.name:
            checkpoint.save(self.training, new, "checkpoint")
        parallel.first(finish)
        return target

    def _full(self, target: Path) -> bool:
        others = [path for path in self.folder.glob("step-*") if path != target]
        return len(others) >= KEPT


def _whole(training: Training, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
    """The batch of all ranks: its tensors, and the rest as JSON has it, with problems by their
    place among those to learn from, or whole."""
    places = {id(problem): number for number, problem in enumerate(training.task.train)}
    rows = [places.get(id(problem), asdict(problem)) for problem in batch.rows]
    parts = parallel.everywhere((tensors_of(batch.to("cpu")), rows))
    filled = [part for part in parts if part[1]] or parts[:1]
    stand_in = Problem("")  # rows are told by their places
    joined = join(
        [
            batch_of_tensors(tensors, [stand_in] * len(rows), training.task, batch.temperature)
            for tensors, rows in filled
        ]
    )
    named = [row for _, rows in filled for row in rows]
    return tensors_of(joined), {"temperature": batch.temperature, "rows": named}


def keep_batch(folder: Path, tensors: Mapping[str, Any], described: Mapping[str, Any]) -> None:
    """Write a batch into a folder."""
    from safetensors.torch import save_file

    with named(folder / "batch.safetensors"):
        save_file(dict(tensors), folder / "batch.safetensors")
    write(folder / "batch.json", json.dumps(described, indent=1, default=str))


def kept_batch(folder: Path, training: Training) -> Batch:
    """The batch that `keep_batch` wrote.

    Raises:
        ValueError: it names a problem that the task does not have.
    """
    from safetensors.torch import load_file

    tensors = load_file(folder / "batch.safetensors")
    described = json.loads((folder / "batch.json").read_text(encoding="utf-8"))
    train = training.task.train
    for row in described["rows"]:
        if isinstance(row, int) and row >= len(train):
            raise ValueError(f"{folder} needs problem {row}, and the task has {len(train)}")
    rows = [train[row] if isinstance(row, int) else Problem(**row) for row in described["rows"]]
    return batch_of_tensors(tensors, rows, training.task, described["temperature"])


def kept_fault(folder: Path) -> Line:
    """What `fault.json` says.

    Raises:
        ValueError: it is damaged.
    """
    path = folder / "fault.json"
    try:
        return numbers(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: {error.msg}") from error
