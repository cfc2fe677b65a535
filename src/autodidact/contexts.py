"""What a privileged teacher reads instead of the student's prompt."""

from __future__ import annotations

from autodidact.batch import Batch
from autodidact.problem import Message


def privileged(batch: Batch) -> list[list[Message]]:
    """The question with its solution, for each row, in the task's words."""
    return [batch.task.privileged(problem) for problem in batch.rows]
