"""A rollout that draws nothing: the solutions of the data, as a masked model would write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from autodidact.batch import Batch, batch_of
from autodidact.method import Rollout
from autodidact.model import LM
from autodidact.models import Models
from autodidact.names import at_least_one
from autodidact.problem import Problem, Task
from autodidact.rollouts.sample import opening


@dataclass(frozen=True)
class GivenCanvas(Rollout):
    """The solution of each problem, in the task's canvas where it has one.

    Streams: `order` [B, T], 1 at the tokens that are to be written, and `canvas` [B, T], 1 at those
    of the completion. Own are the tokens that are to be written, end tokens that fill up included.

    Attributes:
        length: a solution without a canvas is filled up with end tokens to so many; `None` leaves
            it at one.
        whole: the prompt and what the canvas gives are to be written too.

    Raises:
        ValueError: when called, a solution that is longer than `length`, or that is not what its
            canvas has room for.
    """

    length: int | None = None
    whole: bool = False
    n: int = 1
    draws: ClassVar[bool] = False

    def __post_init__(self):
        if self.length is not None:
            at_least_one(length=self.length)

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        policy = models.policy
        prompts, rows, own = [], [], []
        for problem in problems:
            prompt, places = opening(policy, task, problem)
            words = self._filled(policy, problem, places)
            open_ = [not places or places[i] is None for i in range(len(words))]
            # Nothing is known about a token that no output precedes.
            first = policy.shift if self.whole else len(prompt)
            given = [*prompt, *words]
            prompts.append(given[:first])
            rows.append(given[first:])
            own.append([True] * len(given[first:]) if self.whole else open_)
        streams = {
            "order": [[float(each) for each in row] for row in own],
            "canvas": [[1.0] * len(row) for row in rows],
        }
        return batch_of(problems, prompts, rows, task, own=own, tokens=streams)

    def _filled(self, policy: LM, problem: Problem, places: tuple[int | None, ...]) -> list[int]:
        """The tokens of a completion: the solution, in its canvas or with end tokens after it."""
        assert problem.solution is not None, "checked before the run: the method needs it"
        words = policy.encode(problem.solution)
        if places:
            words = words[:-1]
            same = len(words) == len(places) and all(
                known in (None, word) for known, word in zip(places, words, strict=True)
            )
            if not same:
                raise ValueError(
                    f"the solution {problem.solution[:60]!r} of {problem.place} is not what its "
                    f"canvas of {len(places)} tokens begins"
                )
        if self.length is None or places:
            return words
        if len(words) > self.length:
            raise ValueError(
                f"the solution of {problem.place} has {len(words)} tokens with its end: nothing is "
                f"cut, and length={self.length} is all there is"
            )
        return words + [policy.end] * (self.length - len(words))
