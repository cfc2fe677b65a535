"""The scores of an arm as arrays: seeds, problems and evaluation points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autodidact.report import words
from autodidact.report.read import Arm, Line
from autodidact.statistics import Array, pass_at_k

TABLE = ("greedy", "sampled", "pass@k", "majority", "length", "entropy", "forgetting")
METRICS = (*TABLE, "truncated", "distinct")
ACCURACIES = ("greedy", "sampled", "pass@k", "majority")


@dataclass(frozen=True)
class Scored:
    """An arm's scores at the evaluation points that all of its seeds have reached.

    Attributes:
        name: of the arm.
        seeds: the seeds with at least one evaluation.
        fractions: of the budget, one for each of T evaluation points.
        points: `points[seed][t]` is the evaluation line.
    """

    name: str
    seeds: tuple[int, ...]
    fractions: tuple[float, ...]
    points: Mapping[int, Sequence[Line]]

    @classmethod
    def of(cls, arm: Arm) -> Scored:
        by_seed = {
            seed.seed: {round(line["fraction"], 6): line for line in seed.evaluations}
            for seed in arm.evaluated
        }
        fractions = sorted(set.intersection(*(set(found) for found in by_seed.values())))
        if not fractions:
            raise ValueError(f"the seeds of {arm.name} share no evaluation point")
        points = {number: [found[at] for at in fractions] for number, found in by_seed.items()}
        return cls(arm.name, tuple(by_seed), tuple(fractions), points)

    def scores(self, metric: str, at: int, seeds: Sequence[int] | None = None) -> Array | None:
        """`[S, P]` at evaluation point `at`; `[S, 1]` for one number a seed; None if missing."""
        rows = [values(self.points[seed][at], metric) for seed in seeds or self.seeds]
        if any(row is None for row in rows):
            return None
        if len({len(row) for row in rows if row is not None}) > 1:
            raise ValueError(f"the seeds of {self.name} were evaluated on different problems")
        return np.asarray(rows, dtype=float)

    def budget(self, column: str, seeds: Sequence[int] | None = None) -> Array:
        """`[S, T]` of one ledger column."""
        return np.asarray(
            [[line["ledger"][column] for line in self.points[seed]] for seed in seeds or self.seeds]
        )

    def shares(self, other: Scored) -> list[int]:
        """The seeds that both arms have."""
        return [seed for seed in self.seeds if seed in other.seeds]

    def problems(self, metric: str) -> int:
        scores = self.scores(metric, -1)
        return 0 if scores is None else scores.shape[1]

    @property
    def samples(self) -> int:
        """Samples of a problem at the last evaluation, 0 if none were drawn."""
        drawn = self.points[self.seeds[0]][-1]["problems"].get("sampled")
        return len(drawn[0]) if drawn else 0

    @property
    def starts_at_base(self) -> bool:
        return self.fractions[0] == 0


def values(line: Line, metric: str) -> list[float] | None:
    """One metric of one evaluation: a value for each problem, else one number, else None."""
    problems = line["problems"]
    sampled = problems.get("sampled")
    if metric in ("sampled", "pass@k") and sampled:
        if metric == "sampled":
            return [sum(row) / len(row) for row in sampled]
        return [pass_at_k(len(row), sum(row), words.half(len(row))) for row in sampled]
    if problems.get(metric):
        return list(problems[metric])
    single = line["metrics"].get(metric)
    return None if single is None else [single]
