"""The ledger: what a run has spent, by kind, so that runs can be compared at equal cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

from autodidact.names import choose


@dataclass
class Ledger:
    """Counts since the start of a run. Tokens are real ones; padding is never counted.

    Attributes:
        generated: tokens drawn from the policy, also those of rows that were then dropped.
        reused: how many of those were read from the store instead of being drawn again.
        prefilled: prompt tokens read for generation; of a masked model all tokens of every canvas.
        calls: canvases read to draw: calls of a masked model, one for each row that still had
            tokens to write.
        drafted: tokens that a draft model proposed in speculative decoding.
        teacher_forward: tokens read without gradient (teachers, references, old policies).
        student_forward: tokens read with gradient.
        student_backward: tokens that a backward pass went through.
        trained: own tokens with a gradient (student_backward without prompts).
        optimizer_steps: updates of the weights.
        verified: completions graded.
        seconds: wall time of training, evaluation and checkpoints excluded.
        peak_bytes: largest memory seen (of the GPU where there is one, else of the process).
    """

    generated: int = 0
    reused: int = 0
    prefilled: int = 0
    calls: int = 0
    drafted: int = 0
    teacher_forward: int = 0
    student_forward: int = 0
    student_backward: int = 0
    trained: int = 0
    optimizer_steps: int = 0
    verified: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def total(self) -> int:
        """All forward and backward tokens, generation included."""
        read = self.generated + self.prefilled + self.drafted + self.teacher_forward
        return read + self.student_forward + self.student_backward

    def amount(self, column: str) -> float:
        """The count in one column; an unknown column is a `ValueError` with the choices."""
        return getattr(self, choose("budget column", column, COLUMNS))

    def counts(self) -> dict[str, float]:
        return {**asdict(self), "total": self.total}

    @classmethod
    def of(cls, counts: dict[str, float]) -> Ledger:
        """The ledger that `counts()` described."""
        return cls(**{field.name: counts[field.name] for field in fields(cls)})  # type: ignore[arg-type]


SHARED = ("optimizer_steps", "seconds", "peak_bytes")
"""Columns that are the same on all ranks, or those of the slowest and largest."""


def joint(before: Ledger, ranks: Sequence[Ledger]) -> Ledger:
    """What all ranks have spent, each of which began a step with the same ledger."""
    found = replace(before)
    for name in (field.name for field in fields(Ledger)):
        values = [getattr(each, name) for each in ranks]
        start = getattr(before, name)
        more = max(values) - start if name in SHARED else sum(value - start for value in values)
        setattr(found, name, start + more)
    return found


COLUMNS = (*(field.name for field in fields(Ledger)), "total")


def peak_bytes() -> int:
    """Largest memory of this process so far, in bytes."""
    import resource
    import sys

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
