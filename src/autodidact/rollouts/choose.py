"""Rollouts that draw several completions of a problem and keep some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch

from autodidact.batch import Batch, join
from autodidact.grade import grade
from autodidact.law import Law
from autodidact.method import Rollout
from autodidact.models import Models
from autodidact.names import choose
from autodidact.problem import Problem, Task
from autodidact.rollouts.ranking import By, check, members, ranked
from autodidact.rollouts.sample import Sample


@dataclass(frozen=True)
class BestOf(Rollout):
    """The best of n completions of each problem.

    Equal completions of a problem count once, ties go to the earlier sample, and a problem
    without a good completion contributes no row. What was chosen is no sample of the policy any
    more: `logp` still belongs to the plain draw, and `selected` says so.

    Streams: those of `Sample`, by reward also those of `grade`, and `selected` [B], 1 for all.

    Attributes:
        keep: at most this many completions of each problem.
        least: what a completion is ranked by must reach this; by default 1 for a reward, and
            anything otherwise.
        by: "reward" of the task; "certainty" (2502.18581), the mean divergence of the uniform law
            to the policy's; "likelihood", the mean log-probability of its tokens; "confidence"
            (2510.13501), the mean probability of the tokens of its final answer; "majority", one
            vote each for its final answer; "borda" (2502.18581), votes weighed by certainty. A
            vote leaves only completions that gave the winning answer.
        power: of the Borda vote: 0 is the majority, infinity the answer of the surest.

    Raises:
        ValueError: `keep` outside 1 to n, a power below 0, an unknown `by`; and when drawing, a
            task that lacks the `reward` or the `final` that is asked for.
    """

    n: int = 8
    length: int = 1024
    keep: int = 1
    least: float | None = None
    law: Law = field(default_factory=Law)
    by: By = "reward"
    power: float = 0.5

    def __post_init__(self):
        if not 1 <= self.keep <= self.n:
            raise ValueError(f"keep={self.keep} of n={self.n} completions: it must be from 1 to n")
        if not self.power >= 0:
            raise ValueError(f"power={self.power} is not allowed: it must be at least 0")
        choose("by", self.by, get_args(By))

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        check(self.by, task)
        batch = Sample(self.n, self.length, self.law)(problems, models, task, seed)
        if self.by == "reward":
            batch = grade(batch, models)
        merit = ranked(self.by, batch, models, self.power)
        least = self.least
        if least is None:
            least = 1.0 if self.by == "reward" else -torch.inf
        chosen = []
        for rows in members(batch):
            seen: set[tuple[int, ...]] = set()
            good = [row for row in rows if merit[row] >= least]
            for row in sorted(good, key=lambda row: -merit[row]):
                text = tuple(batch.ids[row][batch.own[row]].tolist())
                if text not in seen and len(seen) < self.keep:
                    seen.add(text)
                    chosen.append(row)
        best = batch.select(sorted(chosen))
        return best.put(selected=torch.ones(len(best)))


@dataclass(frozen=True)
class BestAndWorst(Rollout):
    """Of n completions the first of highest and the first of lowest reward: a preference pair.

    A problem whose completions all earn the same contributes no pair. Streams: those of `Sample`
    and `grade`, and `side` [B], +1 for chosen and -1 for rejected.
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
        for rows in members(batch):
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
        wanted = max(1, len(problems) // self.waves)
        kept: list[Batch] = []
        groups = 0
        for start in range(0, len(problems), wanted):
            batch = grade(self.inner(problems[start : start + wanted], models, task, seed), models)
            good = [rows for rows in members(batch) if _spread(batch, rows)][: wanted - groups]
            groups += len(good)
            kept.append(batch.select([row for rows in good for row in rows]))
            if groups == wanted:
                break
        return join(kept)


def _reward(batch: Batch, row: int) -> float:
    """The reward of a row; minus infinity where it could not be scored."""
    reward = float(batch.take("reward")[row])
    return -torch.inf if reward != reward else reward


def _spread(batch: Batch, rows: Sequence[int]) -> bool:
    rewards = {r for row in rows if (r := _reward(batch, row)) > -torch.inf}
    return len(rewards) > 1
