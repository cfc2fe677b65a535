"""Rollouts that vote on the answer: rewards without anyone who knows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from autodidact.batch import Batch
from autodidact.grade import texts
from autodidact.law import Law
from autodidact.method import Rollout
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.rollouts.ranking import check, members, votes
from autodidact.rollouts.sample import Sample


@dataclass(frozen=True)
class Votes(Rollout):
    """n completions of each problem elect an answer; the first `keep` of them are the rows.

    The answer of a completion is what `Task.final` finds in it. Most votes win, ties go to the
    answer seen first, and a completion without an answer does not vote: where none has one,
    nobody is elected. `Problem.answer` is never read, nor the task's own reward.

    Streams: those of `Sample`; `majority` [B], 1 where the row gave the answer elected, 0 where it
    gave another, -1 where it gave none; `reward` [B], 1 where it is 1 and else 0.

    Source: TTRL, arXiv 2504.16084.

    Attributes:
        n: votes, and completions drawn, for each problem.
        keep: rows of each problem.

    Raises:
        ValueError: `keep` outside 1 to n, and when drawing, a task without `final`.
    """

    n: int = 64
    length: int = 1024
    keep: int = 32
    law: Law = field(default_factory=Law)

    def __post_init__(self):
        if not 1 <= self.keep <= self.n:
            raise ValueError(f"keep={self.keep} of n={self.n} votes: it must be from 1 to n")

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        check("majority", task)
        assert task.final is not None
        batch = Sample(self.n, self.length, self.law)(problems, models, task, seed)
        answers = [task.final(text) for text in texts(batch, models)]
        majority, kept = torch.full((len(batch),), -1.0), []
        for rows in members(batch):
            won = votes([answers[row] for row in rows], [1.0] * len(rows))
            for row, weight in zip(rows, won, strict=True):
                if answers[row] is not None:
                    majority[row] = float(weight == 1.0)
            kept += rows[: self.keep]
        return batch.put(majority=majority, reward=majority.clamp(min=0)).select(kept)
