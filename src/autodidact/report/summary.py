"""From the evaluation lines of a run to every number that its report shows.

`summarise` returns plain data for `compare.json`. An interval is `{"value", "low", "high"}`, its
level and the number of draws are stated once; its ends are `null` where there is a single number,
which says nothing about its spread. Where a budget is `null`, the target was not reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from autodidact.names import choose
from autodidact.report import words
from autodidact.report.read import Arm, Line, read
from autodidact.statistics import (
    Array,
    Draws,
    Ratio,
    Reach,
    estimate,
    pass_at_k,
    ratio,
    reach,
    resample,
)

TABLE = ("greedy", "sampled", "pass@k", "majority", "length", "entropy", "forgetting")
METRICS = (*TABLE, "truncated")
ACCURACIES = ("greedy", "sampled", "pass@k", "majority")
BUDGETS = ("generated", "student_backward", "total", "optimizer_steps", "seconds")

Summary = dict[str, Any]


def summarise(
    directory: Path,
    *,
    target: float | None = None,
    reference: str | None = None,
    metric: str = "sampled",
    draws: int = 4000,
    level: float = 0.95,
    seed: int = 0,
) -> Summary:
    """Every statistic of a run directory, as plain data.

    Args:
        directory: a run of kind `compare` or `train` (one arm, one seed).
        target: the accuracy of "tokens to reach"; default `run.target` of `run.json`, else half
            of the way from the base model to the best arm (which is chosen after the fact, and
            the summary says so).
        reference: the arm that ratios are to; default `grpo` if it is there, else the first.
        metric: the accuracy that targets and differences are about.
        draws: bootstrap draws.
        level: of the intervals.
        seed: of the bootstrap.

    Raises:
        ValueError: not a run directory, nothing evaluated yet, arms evaluated on different
            problems, or an unknown reference or metric.
    """
    choose("metric", metric, ACCURACIES)
    record = read(directory)
    arms = [Scored.of(arm) for arm in record.arms if arm.evaluated]
    if not arms:
        raise ValueError(f"{record.folder}: nothing has been evaluated yet (metrics.jsonl)")
    names = [arm.name for arm in arms]
    if reference is None:
        reference = "grpo" if "grpo" in names else names[0]
    choose("reference arm", reference, names)

    @cache
    def plan(seeds: int, problems: int) -> Draws:
        # Seeded by shape, so that arms share their draws whatever was computed before.
        return resample(seeds, problems, np.random.default_rng((seed, seeds, problems)), draws)

    tools = Tools(plan, level, metric, record.call["budget"]["column"])
    matched = {arm["name"]: arm.get("budget") for arm in record.call.get("arms", ())}
    common = [number for number in arms[0].seeds if all(number in arm.seeds for arm in arms)]
    base = tools.base(arms, common)
    if target is None:
        target = record.call["run"].get("target")
    rule = "stated"
    if target is None:
        target, rule = tools.halfway(arms, base), "half of the way from the base to the best arm"
    chosen = next(arm for arm in arms if arm.name == reference)
    return {
        "kind": record.call["kind"],
        "metric": metric,
        "level": level,
        "draws": draws,
        "bootstrap_seed": seed,
        "seeds": list(record.call["seeds"]),
        "problems": arms[0].problems(metric),
        "samples": arms[0].samples,
        "budget": record.call["budget"],
        "reference": reference,
        "target": {"value": target, "rule": rule},
        "base": base,
        "arms": [tools.arm(arm, chosen, target, base is not None) for arm in arms],
        "matched": {name: said for name, said in matched.items() if said},
        "checkpoint": record.call.get("checkpoint_rule") or record.call["run"].get("keep", "last"),
        "waiting": [arm.name for arm in record.arms if not arm.evaluated],
        "differences": [
            tools.versus(arm, other) for arm, other in permutations(arms, 2) if arm.shares(other)
        ],
    }


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


@dataclass(frozen=True)
class Tools:
    """The estimators of one summary: one set of draws for all arms, one level, one metric."""

    plan: Callable[[int, int], Draws]
    level: float
    metric: str
    budget: str

    def estimate(self, scores: Array | None) -> Summary | None:
        if scores is None or scores.size == 1:
            return scores if scores is None else {"value": scores.item(), "low": None, "high": None}
        return estimate(scores, self.draws(scores), self.level)._asdict()

    def difference(self, scores: Array | None, other: Array | None) -> Summary | None:
        if scores is None or other is None:
            return None
        if scores.shape != other.shape:
            raise ValueError(
                f"arms were evaluated on different problems: {scores.shape[1]} and {other.shape[1]}"
            )
        return self.estimate(scores - other)

    def draws(self, scores: Array) -> Draws:
        return self.plan(scores.shape[0], scores.shape[1])

    def base(self, arms: Sequence[Scored], seeds: Sequence[int]) -> Summary | None:
        """The model before training: the mean of the arms' first evaluations."""
        if not seeds or not all(arm.starts_at_base for arm in arms):
            return None
        found = {}
        for metric in METRICS:
            scores = [arm.scores(metric, 0, seeds) for arm in arms]
            known = [one for one in scores if one is not None]
            found[metric] = self.estimate(np.mean(known, axis=0)) if known else None
        return found

    def halfway(self, arms: Sequence[Scored], base: Summary | None) -> float | None:
        finals = [arm.scores(self.metric, -1) for arm in arms]
        best = max((float(one.mean()) for one in finals if one is not None), default=None)
        if base is None or best is None or best <= base[self.metric]["value"]:
            return None
        return round((base[self.metric]["value"] + best) / 2, 3)

    def arm(self, arm: Scored, reference: Scored, target: float | None, based: bool) -> Summary:
        """Final metrics, gain over the base model, curve, ledger and budgets to the target."""
        columns = list(arm.points[arm.seeds[0]][-1]["ledger"])
        curve = [
            {
                "fraction": fraction,
                "budget": {column: float(arm.budget(column)[:, at].mean()) for column in columns},
                "metrics": {name: self.estimate(arm.scores(name, at)) for name in METRICS},
            }
            for at, fraction in enumerate(arm.fractions)
        ]
        final = {name: arm.scores(name, -1) for name in METRICS}
        gain = {
            name: self.difference(scores, arm.scores(name, 0)) if based else None
            for name, scores in final.items()
        }
        return {
            "name": arm.name,
            "seeds": list(arm.seeds),
            "final": curve[-1]["metrics"],
            "gain": gain,
            "ledger": curve[-1]["budget"],
            "curve": curve,
            "reach": {
                column: self.reach(arm, reference, column, target)
                for column in dict.fromkeys((self.budget, *BUDGETS))
                if column in columns
            },
        }

    def reach(
        self, arm: Scored, reference: Scored, column: str, target: float | None
    ) -> Summary | None:
        """Budget to the target and its ratio to the reference; None where it cannot be asked."""
        found = self.crossings(arm, column, target, arm.seeds)
        if found is None or target is None:
            return None
        answer = {
            "value": finite(found.value),
            "low": finite(found.low),
            "high": finite(found.high),
            "unreached": found.unreached,
            "end": found.end,
        }
        seeds = arm.shares(reference)
        mine = self.crossings(arm, column, target, seeds) if seeds else None
        theirs = self.crossings(reference, column, target, seeds) if seeds else None
        if arm.name != reference.name and mine is not None and theirs is not None:
            answer["ratio"] = told(ratio(theirs, mine, self.level), theirs, mine)
        return answer

    def crossings(
        self, arm: Scored, column: str, target: float | None, seeds: Sequence[int]
    ) -> Reach | None:
        scores = [arm.scores(self.metric, at, seeds) for at in range(len(arm.fractions))]
        budget = arm.budget(column, seeds)
        known = [at for at, one in enumerate(scores) if one is not None]
        if target is None or not known or not budget.any():
            return None
        table = np.stack([one for one in scores if one is not None], axis=-1)
        return reach(budget[:, known], table, target, self.draws(table), self.level)

    def versus(self, arm: Scored, other: Scored) -> Summary:
        """Paired differences `arm - other` at the end of training."""
        seeds = arm.shares(other)
        return {
            "arm": arm.name,
            "other": other.name,
            "metrics": {
                name: self.difference(arm.scores(name, -1, seeds), other.scores(name, -1, seeds))
                for name in METRICS
            },
        }


def finite(value: float) -> float | None:
    """JSON has no infinity: a budget that is never enough is null."""
    return value if math.isfinite(value) else None


def told(found: Ratio, reference: Reach, arm: Reach) -> Summary:
    """A ratio as data, with the case that it is: `reached`, or who did not reach the target."""
    met, theirs = math.isfinite(arm.value), math.isfinite(reference.value)
    case = {
        (True, True): "reached",
        (True, False): "reference not reached",
        (False, True): "not reached",
        (False, False): "neither reached",
    }[met, theirs]
    if met and arm.value == 0:
        case = "met at the start"
    return {
        "case": case,
        "value": finite(found.value),
        "low": finite(found.low),
        "high": finite(found.high),
        "at_least": finite(found.at_least),
        "undefined": found.undefined,
        "reference_unreached": reference.unreached,
    }
