"""Rollouts that try a problem until a completion is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from autodidact.batch import Batch, join
from autodidact.engine import Engine, Request
from autodidact.grade import grade
from autodidact.law import Law
from autodidact.method import Rollout
from autodidact.models import Models
from autodidact.names import at_least_one
from autodidact.problem import Problem, Task
from autodidact.rollouts.sample import answer, opening, sample_numbers, sampled_batch


@dataclass(frozen=True)
class Tries(Rollout):
    """The first right completion of at most n of each problem, or else the best that will do.

    A problem is tried again until a reward reaches 1; then the best try counts, the first of equal
    ones, if it reached `least`. A problem without such a try contributes no row. The tries are
    samples 0, 1 ... of `Sample`; streams: those of `Sample` and of `grade`.

    Attributes:
        n: at most this many completions of each problem.
        least: what a reward must reach.
        engine: what draws them; by default that of the models.
    """

    n: int = 8
    length: int = 1024
    least: float = 1.0
    law: Law = field(default_factory=Law)
    engine: Engine | None = None

    def __post_init__(self):
        at_least_one(n=self.n, length=self.length)

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        begun = [opening(models.policy, task, problem) for problem in problems]
        named = [[*p, *(-1 if w is None else w for w in canvas)] for p, canvas in begun]
        numbers = sample_numbers(named, self.n)
        best = [-torch.inf] * len(problems)
        found: list[Batch | None] = [None] * len(problems)
        drawn = []
        for turn in range(self.n):
            left = [i for i, reward in enumerate(best) if reward < 1]
            if not left:
                break
            asked = [
                Request(tuple(begun[i][0]), numbers[i][turn], len(begun[i][1]) or self.length,
                        canvas=begun[i][1])
                for i in left
            ]  # fmt: skip
            made = answer(models, asked, self.law, seed, self.engine)
            prompts = [begun[i][0] for i in left]
            some = [problems[i] for i in left]
            batch = sampled_batch(
                some, prompts, [[each] for each in made], task, self.law, ends=models.policy.ends
            )
            drawn.append(grade(batch, models))
            for row, i in enumerate(left):
                reward = float(drawn[-1].take("reward")[row].nan_to_num(-torch.inf))
                if reward > best[i]:
                    best[i], found[i] = reward, drawn[-1].select([row])
        kept = [one for one, reward in zip(found, best, strict=True) if one is not None
                and reward >= self.least]  # fmt: skip
        return join(kept) if kept else drawn[0].select([])
