"""Rollouts that draw several completions of a problem and keep some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from autodidact.batch import Batch, join
from autodidact.grade import grade
from autodidact.law import Law
from autodidact.method import Rollout
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.rollouts.sample import Sample


@dataclass(frozen=True)
class BestOf(Rollout):
    """The best of n completions by reward, of those that earn at least `least`.

    Equal completions of a problem count once, ties go to the earlier sample, and a problem
    without a good completion contributes no row. Streams: those of `Sample` and `grade`.

    Attributes:
        keep: at most this many completions of each problem.
    """

    n: int = 8
    length: int = 1024
    keep: int = 1
    least: float = 1.0
    law: Law = field(default_factory=Law)

    def __post_init__(self):
        if not 1 <= self.keep <= self.n:
            raise ValueError(f"keep={self.keep} of n={self.n} completions: it must be from 1 to n")

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        drawn = Sample(self.n, self.length, self.law)(problems, models, task, seed)
        batch = grade(drawn, models)
        chosen = []
        for rows in _groups(batch):
            seen: set[tuple[int, ...]] = set()
            for row in sorted(rows, key=lambda row: -_reward(batch, row)):
                text = tuple(batch.ids[row][batch.own[row]].tolist())
                if _reward(batch, row) >= self.least and text not in seen and len(seen) < self.keep:
                    seen.add(text)
                    chosen.append(row)
        return batch.select(sorted(chosen))


@dataclass(frozen=True)
class BestAndWorst(Rollout):
    """Of n completions the first of highest and the first of lowest reward: a preference pair.

    A problem whose completions all earn the same contributes no pair. Streams: those of
    `BestOf`, and `side` [B], +1 for chosen and -1 for rejected.
    """

    n: int = 8
    length: int = 1024
    law: Law = field(default_factory=Law)

    def __post_init__(self):
        if self.n < 2:
            raise ValueError(f"n={self.n}: a pair needs at least 2 completions of a problem")

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        drawn = Sample(self.n, self.length, self.law)(problems, models, task, seed)
        batch = grade(drawn, models)
        chosen: list[int] = []
        for rows in _groups(batch):
            scorable = [row for row in rows if _reward(batch, row) > -torch.inf]
            if len({_reward(batch, row) for row in scorable}) > 1:
                chosen.append(max(scorable, key=lambda row: _reward(batch, row)))
                chosen.append(min(scorable, key=lambda row: _reward(batch, row)))
        pairs = batch.select(chosen)
        return pairs.put(side=torch.tensor([1.0, -1.0]).repeat(len(pairs) // 2))


@dataclass(frozen=True)
class WithSpread(Rollout):
    """Dynamic sampling of DAPO (2503.14476): only groups whose rewards differ.

    The problems are taken in waves until enough groups are kept or the problems, `waves` times
    as many, run out; a saturated task therefore ends. Streams: those of `Sample` and `grade`.
    """

    inner: Sample
    waves: int = 3
    n: int = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "n", self.inner.n)

    def problems(self, rows: int) -> int:
        return self.waves * super().problems(rows)

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        wanted = len(problems) // self.waves
        kept: list[Batch] = []
        groups = 0
        for start in range(0, len(problems), wanted):
            batch = grade(self.inner(problems[start : start + wanted], models, task, seed), models)
            good = [rows for rows in _groups(batch) if _spread(batch, rows)][: wanted - groups]
            groups += len(good)
            kept.append(batch.select([row for rows in good for row in rows]))
            if groups == wanted:
                break
        return join(kept)


def _groups(batch: Batch) -> list[list[int]]:
    members: dict[int, list[int]] = {}
    for row, group in enumerate(batch.group.tolist()):
        members.setdefault(group, []).append(row)
    return list(members.values())


def _reward(batch: Batch, row: int) -> float:
    """The reward of a row; minus infinity where it could not be scored."""
    reward = float(batch.take("reward")[row])
    return -torch.inf if reward != reward else reward


def _spread(batch: Batch, rows: Sequence[int]) -> bool:
    rewards = {r for row in rows if (r := _reward(batch, row)) > -torch.inf}
    return len(rewards) > 1
