"""What is estimated of arms: means, gains, differences, curves, budgets to a target.

Everything is returned as plain data; see `summary`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autodidact.report.scored import METRICS, Scored
from autodidact.statistics import Array, Draws, Ratio, Reach, estimate, ratio, reach

BUDGETS = ("generated", "student_backward", "total", "optimizer_steps", "seconds")

Summary = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """The accuracy of "tokens to reach", how it was chosen, and its draws if data chose it."""

    value: float
    rule: str
    draws: Array | None = None


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

    def halfway(self, arms: Sequence[Scored], seeds: Sequence[int]) -> Target | None:
        """Half of the way from the base model to the arm that ended best; None if none gained.

        The target is made from the data, so each draw makes its own.
        """
        if not seeds or not all(arm.starts_at_base for arm in arms):
            return None
        starts = [arm.scores(self.metric, 0, seeds) for arm in arms]
        ends = [arm.scores(self.metric, -1, seeds) for arm in arms]
        known = [(start, end) for start, end in zip(starts, ends, strict=True) if end is not None]
        if not known:
            return None
        base = np.mean([start for start, _ in known if start is not None], axis=0)
        best = max((end for _, end in known), key=np.mean)
        if best.mean() <= base.mean():
            return None
        middle = (base + best) / 2
        rule = "half of the way from the base to the best arm"
        return Target(float(middle.mean()), rule, self.draws(middle).means(middle))

    def arm(self, arm: Scored, reference: Scored, target: Target | None, based: bool) -> Summary:
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
        self, arm: Scored, reference: Scored, column: str, target: Target | None
    ) -> Summary | None:
        """Budget to the target and its ratio to the reference; None where it cannot be asked."""
        found = self.crossings(arm, column, target, arm.seeds)
        if found is None or target is None:
            return None
        answer: dict[str, Any] = {
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
        self, arm: Scored, column: str, target: Target | None, seeds: Sequence[int]
    ) -> Reach | None:
        scores = [arm.scores(self.metric, at, seeds) for at in range(len(arm.fractions))]
        budget = arm.budget(column, seeds)
        known = [at for at, one in enumerate(scores) if one is not None]
        if target is None or not known or not budget.any():
            return None
        table = np.stack([one for one in scores if one is not None], axis=-1)
        draws = self.draws(table)
        return reach(budget[:, known], table, target.value, draws, self.level, target.draws)

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
