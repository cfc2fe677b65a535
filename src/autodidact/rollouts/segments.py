"""Rollouts of long completions, a piece on each call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import torch

from autodidact.batch import Batch
from autodidact.engine import Request, fits
from autodidact.law import Law
from autodidact.method import Rollout
from autodidact.models import Models
from autodidact.names import at_least_one, choose
from autodidact.problem import Problem, Task
from autodidact.rollouts.paths import Path, batch_of_paths, begin, go_on
from autodidact.store import Completion

Gives = Literal["finished", "groups", "all"]


@dataclass
class Pool:
    """What lasts from one call to the next.

    Attributes:
        paths: those that will go on, and those that wait for others of their group.
        calls: calls made so far.
        groups: problems taken so far.
    """

    paths: list[Path] = field(default_factory=list)
    calls: int = 0
    groups: int = 0


@dataclass(frozen=True)
class Segments(Rollout):
    """n completions of each problem, of which a call writes at most `budget` tokens each.

    What is not over then waits, and goes on in the next call with the weights of that time. A
    completion is over when it ends or has `length` tokens. `problems` asks for as many new ones
    as there are free places: a step writes at most `rows` completions. Each call draws by its
    own seed; under one seed and unchanged weights the pieces make the undivided draw of `Sample`,
    and with budget >= length each call is `Sample`.

    Streams: those of `Sample`, where `logp` and `raw` are those of the weights that drew the
    token, and `age` [B, T], how many calls ago that was. Early batches favour short completions,
    and may have no row.

    Source: partial rollouts of Kimi k1.5, arXiv 2501.12599; segments of UloRL, arXiv 2507.19766.

    Attributes:
        budget: tokens written of a completion in a call.
        gives: which rows a call returns: "finished", those that are over; "groups", those of
            problems whose n completions are all over, for credit that compares them; "all", also
            those that go on, as they stand: their tokens come again in later calls, and `age`
            0 marks the new ones.

    Raises:
        ValueError: an unknown `gives`, or a prompt that with `length` more tokens does not fit
            the context.
    """

    n: int = 1
    length: int = 8192
    budget: int = 1024
    gives: Gives = "finished"
    law: Law = field(default_factory=Law)
    pool: Pool = field(default_factory=Pool, init=False, repr=False, compare=False)

    def __post_init__(self):
        at_least_one(n=self.n, length=self.length, budget=self.budget)
        choose("gives", self.gives, get_args(Gives))

    def problems(self, rows: int) -> int:
        """How many problems have room beside the completions that go on."""
        super().problems(rows)
        going = sum(not self._over(path) for path in self.pool.paths)
        return max(0, rows - going) // self.n

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        pool = self.pool
        fresh = begin(problems, models, task, self.n)
        fits(models.policy, [Request(path.prompt, path.sample, self.length) for path in fresh])
        paths = pool.paths + [replace(path, group=path.group + pool.groups) for path in fresh]
        missing = [0 if self._over(path) else self.length - len(path) for path in paths]
        lengths = [min(self.budget, size) for size in missing]
        now = [pool.calls] * len(paths)
        paths = go_on(models, paths, lengths, self.law, seed, now)
        chosen = self._given(paths)
        kept = [path for i, path in enumerate(paths) if i not in chosen or not self._over(path)]
        batch = self._batch(paths, task).select(sorted(chosen))
        batch = replace(batch, group=batch.group.unique(return_inverse=True)[1])
        pool.paths, pool.calls, pool.groups = kept, pool.calls + 1, pool.groups + len(problems)
        return batch

    def _over(self, path: Path) -> bool:
        return path.finished or len(path) == self.length

    def _given(self, paths: Sequence[Path]) -> set[int]:
        """The rows that a call returns."""
        going = {path.group for path in paths if not self._over(path)}
        given = {
            "finished": self._over,
            "groups": lambda path: path.group not in going,
            "all": lambda path: True,
        }[self.gives]
        return {row for row, path in enumerate(paths) if given(path)}

    def _batch(self, paths: Sequence[Path], task: Task) -> Batch:
        batch = batch_of_paths(paths, task, self.law, "age")
        age = torch.where(batch.own, self.pool.calls - batch.take("age"), 0)
        return batch.put(age=age)

    def state(self) -> dict[str, Any]:
        """Everything a checkpoint must hold, as JSON has it (the problems' `meta` permitting)."""
        return asdict(self.pool)

    def fresh(self) -> Segments:
        return replace(self)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.pool.paths = [_path(**each) for each in state["paths"]]
        self.pool.calls, self.pool.groups = state["calls"], state["groups"]


def _path(problem, group, prompt, sample, written, own, notes) -> Path:
    return Path(
        Problem(**problem), group, tuple(prompt), sample, Completion(**written), tuple(own),
        tuple(notes),
    )  # fmt: skip
