"""Grading completions: rewards and correctness as streams."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from autodidact.batch import Batch
from autodidact.models import Models


def texts(batch: Batch, models: Models) -> list[str]:
    """What follows each prompt, as text: from the first own token to the end of the row, or the
    canvas of a masked model up to the first token that ends it."""
    found = []
    canvas = "canvas" in batch.streams
    begins = batch.take("canvas") == 1 if canvas else batch.own
    for ids, real, own in zip(batch.ids, batch.real, begins, strict=True):
        start = int(own.int().argmax()) if own.any() else len(ids)
        rest = ids[start:][real[start:]].tolist()
        found.append(models.policy.text(rest) if canvas else models.policy.decode(rest))
    return found


def grade(batch: Batch, models: Models) -> Batch:
    """The batch with `reward` [B] and `correct` [B]: NaN where a row cannot be scored or judged.

    A reward that is not a finite number is none: the row cannot be scored.

    Raises:
        ValueError: the number of rewards is not that of rows.
    """
    task, written = batch.task, texts(batch, models)
    rewards = task.score(batch.rows, written)
    if len(rewards) != len(batch):
        raise ValueError(f"{len(batch)} completions were graded with {len(rewards)} rewards")
    rewards = [None if each is None or not math.isfinite(each) else each for each in rewards]
    models.ledger.verified += sum(reward is not None for reward in rewards)
    return batch.put(reward=_column(rewards), correct=_column(judge(batch, written)))


def graded(batch: Batch, models: Models) -> Batch:
    """The batch, graded where it was drawn and has no reward yet."""
    drawn = "raw" in batch.streams and "reward" not in batch.streams
    return grade(batch, models) if drawn else batch


def judge(batch: Batch, written: Sequence[str]) -> list[float | None]:
    """1 for right, 0 for wrong, `None` where the task or the problem has no answer."""
    correct = batch.task.correct
    return [
        None if correct is None or problem.answer is None else float(correct(problem, text))
        for problem, text in zip(batch.rows, written, strict=True)
    ]


def _column(values: Sequence[float | None]) -> torch.Tensor:
    return torch.tensor([math.nan if value is None else value for value in values])
