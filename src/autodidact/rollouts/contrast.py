"""Rollouts that keep one good and one bad completion of each problem, and what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from autodidact.batch import Batch
from autodidact.credits.group import group_mean, group_sum
from autodidact.grade import grade
from autodidact.law import Law
from autodidact.method import Rollout
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.rollouts.ranking import members
from autodidact.rollouts.sample import Sample


@dataclass(frozen=True)
class Contrast(Rollout):
    """Of n completions of a problem one above the mean reward and one below it.

    The first of the highest and the first of the lowest reward, in this order; none where all
    earn the same. Streams: those of `Sample` and `grade`, and `apart` [B], the reward less the
    mean of the n - 1 other ones, of those that were left out too.

    Source: the sampling of OREAL, arXiv 2502.06781.
    """

    n: int = 16
    length: int = 1024
    law: Law = field(default_factory=Law)

    def __post_init__(self):
        if self.n < 2:
            raise ValueError(f"n={self.n}: a contrast needs at least 2 completions of a problem")

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        batch = grade(Sample(self.n, self.length, self.law)(problems, models, task, seed), models)
        reward = batch.take("reward")
        count = group_sum((~reward.isnan()).to(reward.dtype), batch.group)
        apart = (reward - group_mean(reward, batch.group)) * count / (count - 1).clamp(min=1)
        batch = batch.put(apart=apart.nan_to_num())
        chosen: list[int] = []
        for rows in members(batch):
            worth = batch.take("apart")[rows].tolist()
            if max(worth) > 0:
                chosen += [rows[worth.index(max(worth))], rows[worth.index(min(worth))]]
        return batch.select(chosen)
