"""Evaluation on held-out problems: what is right, how sure, how long, and what was forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autodidact import parallel
from autodidact.law import Law
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.statistics import majority, pass_at_k
from autodidact.store import Completion

ROWS = 1024
"""Rows decoded together; a bound on memory, without effect on what is drawn."""


@dataclass(frozen=True)
class Evaluation:
    """How and on what a model is looked at.

    Attributes:
        samples: completions of each problem at `temperature`, beside the greedy one.
        length: at most this many tokens each.
        untouched: a task that training never sees, to measure forgetting; greedy accuracy.
        seed: of the samples; the same for every arm, so that arms differ by their weights only.
    """

    task: Task
    problems: Sequence[Problem]
    samples: int
    length: int
    untouched: Task | None = None
    temperature: float = 1.0
    seed: int = 10_007

    def __post_init__(self):
        if self.task.correct is None:
            raise ValueError(f"the task {self.task.name!r} has no verifier: nothing to evaluate")

    def __call__(self, models: Models) -> dict[str, Any]:
        """`metrics`, each a number, and `problems`, what each was given, for the statistics.

        sampled: mean accuracy of the samples. pass@k: unbiased, for k half the samples.
        majority: accuracy of the most frequent final answer. distinct: mean number of different
        right final answers among the samples of a problem. entropy: mean of -log p over the
        sampled tokens (nats). length: mean tokens of a sample. truncated: share of samples that
        did not end. forgetting: greedy accuracy on the untouched task.
        """
        greedy = _decode(models, self.task, self.problems, 1, self.length, Law(0.0), self.seed)
        law = Law(self.temperature)
        drawn = _decode(models, self.task, self.problems, self.samples, self.length, law, self.seed)
        right_greedy = [_right(models, self.task, p, [c])[0] for p, [c] in greedy]
        right = [_right(models, self.task, p, completions) for p, completions in drawn]
        k = max(1, self.samples // 2)
        flat = [each for _, completions in drawn for each in completions]
        tokens = sum(each.written for each in flat)
        metrics = {
            "greedy": _mean(right_greedy),
            "sampled": _mean([_mean(each) for each in right]),
            f"pass@{k}": _mean([pass_at_k(len(each), sum(each), k) for each in right]),
            "length": tokens / len(flat),
            "entropy": -sum(sum(each.raw) for each in flat) / tokens,
            "truncated": _mean([not each.finished for each in flat]),
        }
        problems: dict[str, Any] = {"greedy": right_greedy, "sampled": right}
        if self.task.final is not None:
            problems["majority"] = [self._vote(models, p, found) for p, found in drawn]
            metrics["majority"] = _mean(problems["majority"])
            problems["distinct"] = [self._distinct(models, p, found) for p, found in drawn]
            metrics["distinct"] = _mean(problems["distinct"])
        if self.untouched is not None:
            other = self.untouched.test[: len(self.problems)]
            spoken = _decode(models, self.untouched, other, 1, self.length, Law(0.0), self.seed)
            problems["forgetting"] = [
                _right(models, self.untouched, p, [c])[0] for p, [c] in spoken
            ]
            metrics["forgetting"] = _mean(problems["forgetting"])
        return {"metrics": metrics, "problems": problems}

    def _distinct(self, models: Models, problem: Problem, completions: Sequence[Completion]) -> int:
        """How many different final answers are right, each judged by one that gave it."""
        assert self.task.final is not None
        assert self.task.correct is not None
        texts = [text_of(models, each) for each in completions]
        by_answer = {self.task.final(text): text for text in texts}
        by_answer.pop(None, None)
        return sum(self.task.correct(problem, text) for text in by_answer.values())

    def _vote(self, models: Models, problem: Problem, completions: Sequence[Completion]) -> int:
        """Whether the most frequent final answer is right, judged by a completion that gave it."""
        texts = [text_of(models, each) for each in completions]
        assert self.task.final is not None
        assert self.task.correct is not None
        winner = majority([self.task.final(text) for text in texts])
        return 0 if winner is None else int(self.task.correct(problem, texts[winner]))


def text_of(models: Models, completion: Completion) -> str:
    """What was written; of a canvas up to the token that ends it, which more may follow."""
    lm = models.policy
    return lm.decode(completion.ids) if completion.order is None else lm.text(completion.ids)


def _decode(
    models: Models,
    task: Task,
    problems: Sequence[Problem],
    n: int,
    length: int,
    law: Law,
    seed: int,
) -> list[tuple[Problem, list[Completion]]]:
    from autodidact.rollouts.sample import solve

    step, found, mine = max(1, ROWS // n), [], parallel.share(problems)
    with models.uncharged(), models.opened():
        for start in range(0, len(mine), step):
            found += solve(models, task, mine[start : start + step], n, length, law, seed)
    all_of_them = [each for part in parallel.everywhere(found) for each in part]
    return list(zip(problems, all_of_them, strict=True))


def _right(
    models: Models, task: Task, problem: Problem, completions: Sequence[Completion]
) -> list[int]:
    assert task.correct is not None
    return [int(task.correct(problem, text_of(models, each))) for each in completions]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
