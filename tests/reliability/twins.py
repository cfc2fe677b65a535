"""A small run, and what it means that two of them are the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from autodidact import checkpoint
from autodidact.calls import Call
from autodidact.files import digest
from autodidact.run import Run
from autodidact.session import Watcher
from autodidact.spec import Spec

SMALL = Spec(
    Call("grpo", {"n": 2, "length": 8}),
    Call("tiny_calculation", {"train": 12, "test": 2}),
    Run(steps=4, rows=4, lr=1e-3, eval_points=2, eval_problems=2, eval_samples=1, eval_length=4),
)


def small(**options: Any) -> Spec:
    """The small run with other options of `Run`."""
    return replace(SMALL, run=replace(SMALL.run, **options))


class At(Watcher):
    """Calls a function when a step is told of."""

    def __init__(self, step: int, work):
        self.number, self.work = step, work

    def step(self, line, fraction):
        if line["step"] == self.number:
            self.work()


def measured(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run without what a clock or the machine decides."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["ledger"]["seconds"], line["ledger"]["peak_bytes"]
    return lines


def saved(folder: Path) -> dict[str, str]:
    """The digests of the tensors in the newest checkpoint."""
    newest = checkpoint.complete(folder / "checkpoints")[-1]
    found = {str(p.relative_to(newest)): digest(p) for p in sorted(newest.rglob("*.safetensors"))}
    assert len(found) >= 2
    return {"name": newest.name, **found}


def assert_same(one: Path, other: Path) -> None:
    """Metrics, samples, weights and optimizer of two runs are equal to the last bit."""
    assert measured(one) == measured(other)
    assert (one / "samples.jsonl").read_bytes() == (other / "samples.jsonl").read_bytes()
    assert saved(one) == saved(other)
