"""The training loop: problems -> rollout -> credit -> weigh -> views -> score -> loss -> update."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from autodidact import parallel
from autodidact.ahead import Ahead, dated
from autodidact.batch import Batch
from autodidact.faults import enough_memory, stopped
from autodidact.grade import graded
from autodidact.guards import Diverged
from autodidact.learn import learn
from autodidact.ledger import joint, peak_bytes
from autodidact.measure import Rows, describe
from autodidact.method import Method
from autodidact.models import Models
from autodidact.notes import described, noted
from autodidact.problem import Problem, Task
from autodidact.run import Run

DRAWN = ("generated", "reused", "prefilled", "calls", "drafted", "verified")
"""Columns of the ledger that only rollouts fill."""

EMPTY = 100
"""Steps in a row without a row to learn from after which a run gives up."""


def problems_at(problems: Sequence[Problem], position: int, count: int, seed: int) -> list[Problem]:
    """`count` problems from a position of the endless order that a seed fixes.

    Every pass over the problems is a new permutation, and depends on the seed and the number of
    the pass only, so that arms of any step size walk the same order.
    """
    found: list[Problem] = []
    while len(found) < count:
        turn, offset = divmod(position, len(problems))
        order = list(range(len(problems)))
        random.Random(f"{seed}/{turn}").shuffle(order)
        taken = order[offset : offset + count - len(found)]
        found += [problems[i] for i in taken]
        position += len(taken)
    return found


@dataclass
class Training:
    """A method at work on a model: what a checkpoint must hold to go on from here.

    Attributes:
        step: updates made or skipped so far. position: problems taken so far.
        skips: updates skipped in a row, for a loss or gradient that is not finite.
        empty: steps in a row that had no row to learn from.
        evaluated: evaluation points passed so far.
        fault: where a number of the last update was not finite, see `faults`; `None` if all were.
        ahead: what draws the batches of later steps; `None` where each is drawn in its own.
    """

    method: Method
    models: Models
    task: Task
    run: Run
    step: int = 0
    position: int = 0
    skips: int = 0
    empty: int = 0
    evaluated: int = 0
    fault: dict[str, Any] | None = None
    optimizer: torch.optim.Optimizer = field(init=False)
    ahead: Ahead | None = field(init=False, default=None)

    def __post_init__(self):
        run = self.run
        if self.count < parallel.ranks():
            raise ValueError(
                f"rows={run.rows} are those of {self.count} problems, fewer than the "
                f"{parallel.ranks()} processes that share them: raise rows"
            )
        for role in self.method.roles:
            assert self.models[role]
        if run.staleness and self.method.rollout.draws:
            self._may_be_stale()
            self.ahead = Ahead(self.method.rollout, self.task, self.models)
        if run.steps is None and run.column in DRAWN and not self.method.rollout.draws:
            raise ValueError(
                f"method {self.method.name!r} draws nothing, so a budget of {run.column!r} would "
                "never be spent: give steps, or another budget column such as 'student_backward'"
            )
        self.optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.run.lr, weight_decay=self.run.weight_decay, fused=True
        )

    def _may_be_stale(self) -> None:
        if self.method.rollout.state() is not None:
            raise ValueError(
                f"staleness={self.run.staleness}: what {type(self.method.rollout).__name__} draws "
                "depends on what it drew before, so it cannot be drawn ahead; take staleness=0"
            )
        if self.method.stale:
            return
        known = "correct" in (self.method.arguments or {})
        raise ValueError(
            f"staleness={self.run.staleness}: the loss of {self.method.name!r} takes every token "
            "as drawn by the weights that learn from it; "
            + ("give correct='token', or take staleness=0" if known else "take staleness=0")
        )

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for p in self.models.policy.model.parameters() if p.requires_grad]

    @property
    def fraction(self) -> float:
        """How much of the run is done, from 0 to 1."""
        return self.run.fraction(self.step, self.models.ledger.amount(self.run.column))

    def rate(self) -> float:
        """Learning rate of the next update."""
        warm = min(1.0, (self.step + 1) / self.run.warmup) if self.run.warmup else 1.0
        if self.run.schedule == "cosine":
            warm *= (1 + math.cos(math.pi * self.fraction)) / 2
        return self.run.lr * warm

    @property
    def count(self) -> int:
        """Problems of a step."""
        return self.method.rollout.problems(self.run.rows)

    def asked(self, step: int) -> tuple[list[Problem], int]:
        """This rank's problems of this step or a later one, and the seed of its draws."""
        position = self.position + (step - self.step) * self.count
        # Large strides keep the draws of neighbouring seeds and steps apart.
        seed = self.run.seed * 1_000_003 + step
        problems = problems_at(self.task.train, position, self.count, self.run.seed)
        return list(parallel.share(problems)), seed

    def drawn(self) -> Batch:
        """The batch of this step. Those that the weights of now draw for later are ordered."""
        rollout, ledger = self.method.rollout, self.models.ledger
        if self.ahead is None:
            problems, seed = self.asked(self.step)
            with self.models.opened() if rollout.draws else nullcontext():
                batch = rollout(problems, self.models, self.task, seed)
            return dated(batch, ledger.optimizer_steps) if rollout.draws else batch
        first = self.step + len(self.ahead.waiting)
        last = self.step + self.run.staleness
        if self.run.steps is not None:
            last = max(self.step, min(last, self.run.steps - 1))
        if first <= last:
            still = self.ahead.still(self.models)
            for step in range(first, last + 1):
                problems, seed = self.asked(step)
                self.ahead.order(problems, still, seed)
        return self.ahead.take(ledger)

    def close(self) -> None:
        """Forget what was drawn ahead, at the end of a run."""
        if self.ahead is not None:
            self.ahead.close()

    def ready(self) -> Batch:
        """The batch of this step, graded, where the policy is."""
        batch = self.drawn()
        batch = graded(batch, self.models)
        return batch.to(self.models.policy.device)

    def advance(self) -> tuple[Batch, dict[str, Any]]:
        """One step: take problems, draw, learn. Returns the batch and what was measured.

        Raises:
            Halted: memory does not suffice.
        """
        started, rate, count = time.monotonic(), self.rate(), self.count
        spent = replace(self.models.ledger)
        doing, remedy = "drawing", "Lower rows, or the length of completions"
        with noted() as notes, enough_memory(self.run, doing, remedy):
            batch = self.ready()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        before = self.models.ledger.optimizer_steps
        rows = parallel.everywhere(Rows.of(batch, before, parallel.rank()))
        with enough_memory(self.run, "learning", "Lower micro_rows"):
            measured = learn(self.method, self.models, batch, self.optimizer, self.run)
        self.models.version = None
        self.fault = measured.pop("fault", None)
        if self.fault is None:
            self.models.after_step(before)
        self.skips = self.skips + 1 if measured["skipped"] else 0
        self.empty = self.empty + 1 if measured["empty"] else 0
        self.step += 1
        self.position += count
        self.models.ledger.seconds += time.monotonic() - started
        self.models.ledger.peak_bytes = max(self.models.ledger.peak_bytes, peak_bytes())
        self.models.ledger = joint(spent, parallel.everywhere(self.models.ledger))
        told = describe(Rows.joined(rows)) | described(parallel.everywhere(notes))
        line = {"kind": "step", "step": self.step, "lr": rate, **measured, **told}
        return batch, line | {"ledger": self.models.ledger.counts()}


def fit(
    training: Training,
    on_step: Callable[[Batch, dict[str, Any]], None],
    on_point: Callable[[float], None],
    on_end: Callable[[], None] = lambda: None,
) -> None:
    """Run to the end, from wherever a checkpoint left off.

    Args:
        on_point: called with the fraction done at the start, at each of the evenly spaced
            evaluation points as they are passed, and at the end.
        on_end: called after each step when all else of it is done: the moment to save.

    Raises:
        Diverged: as many updates in a row were skipped as the run allows.
        ValueError: so many steps in a row had no row to learn from that none will.
    """
    run = training.run
    points = [k / run.eval_points for k in range(run.eval_points + 1)] if run.eval_points else [1.0]
    with closing(training):
        _pass(training, points, on_point)
        while training.evaluated < len(points):
            batch, line = training.advance()
            on_step(batch, line)
            if training.skips >= run.max_skips:
                raise Diverged(stopped(training))
            if training.empty == EMPTY:
                raise ValueError(
                    f"{EMPTY} steps in a row had no row to learn from: no verified answer, no "
                    "pair, no spread of rewards; raise n or take other problems"
                )
            _pass(training, points, on_point)
            on_end()


def _pass(training: Training, points: Sequence[float], on_point: Callable[[float], None]) -> None:
    """Evaluate where one or more points have been passed since the last time, once for all."""
    done = sum(point <= training.fraction + 1e-9 for point in points)
    if done > training.evaluated:
        on_point(points[done - 1])
        training.evaluated = done
