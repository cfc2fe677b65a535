"""Rollouts that draw nothing: the completions are in the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from autodidact.batch import Batch, batch_of
from autodidact.method import Rollout
from autodidact.models import Models
from autodidact.problem import Problem, Task


@dataclass(frozen=True)
class Given(Rollout):
    """The solution of each problem as if the policy had written it, end token included."""

    n: int = 1
    draws: ClassVar[bool] = False

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        policy = models.policy
        completions = []
        for problem in problems:
            assert problem.solution is not None, "checked before the run: the method needs it"
            completions.append(policy.encode(problem.solution))
        prompts = [policy.render(task.prompt(problem)) for problem in problems]
        return batch_of(problems, prompts, completions, task)


@dataclass(frozen=True)
class GivenPairs(Rollout):
    """Columns `chosen` and `rejected` of each problem: two rows of one group, in that order.

    Stream: `side` [B], +1 for chosen and -1 for rejected.
    """

    n: int = 2
    draws: ClassVar[bool] = False

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        policy = models.policy
        rows, completions, sides = [], [], []
        for problem in problems:
            for name, side in (("chosen", 1.0), ("rejected", -1.0)):
                if not isinstance(problem.meta.get(name), str):
                    raise ValueError(
                        f"the problem {problem.place} has no column {name!r}; it has "
                        f"{sorted(problem.meta) or 'no further columns'}"
                    )
                rows.append(problem)
                completions.append(policy.encode(problem.meta[name]))
                sides.append(side)
        prompts = [policy.render(task.prompt(problem)) for problem in rows]
        group = [i // 2 for i in range(len(rows))]
        return batch_of(rows, prompts, completions, task, group=group, values={"side": sides})
