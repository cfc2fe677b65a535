"""Statistics of a comparison: unbiased pass@k, majority votes, and a paired bootstrap.

Shapes: S seeds, P held-out problems, T evaluation points, D bootstrap draws. A score is an array
`[S, P]`: seed s was right (1), wrong (0) or right in a share of its samples on problem p. A
quantity that is one number a seed (a mean length) is an array `[S, 1]`.

The bootstrap is hierarchical and crossed: each draw resamples seeds and, independently, problems,
with replacement. `Draws` holds the resampled shares, so using the same `Draws` for two arms pairs
them: in each draw both arms are judged on the same problems and on the same seeds.

What a 95% interval covers, by simulation (600 data sets of 100 problems, 2000 draws; each figure
+-0.02 at two standard errors): with 3 seeds that differ by chance only, 0.96 (8 samples a problem)
to 0.995 (one sample: the crossed bootstrap counts the noise of a cell more than once, which is
safe). With 3 seeds whose true accuracies spread by 5 points, 0.90; with 10 such seeds, 0.935.
Where seeds are nearly all of the spread, 3 of them give 0.76: a percentile interval cannot be
wider than the range of what was seen, which misses once in four. Read an interval over few seeds as
what these runs show, not as a promise about the next seed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with the lower and upper end of its interval."""

    value: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that one of k samples is right, from n samples of which c were.

    Unbiased: `1 - C(n - c, k) / C(n, k)` (Chen et al. 2021, arXiv 2107.03374).

    Raises:
        ValueError: unless `0 <= c <= n` and `1 <= k <= n`.
    """
    if not 0 <= c <= n:
        raise ValueError(f"pass@k: {c} right of {n} samples; the number right is 0 to {n}")
    if not 1 <= k <= n:
        raise ValueError(f"pass@k: k is {k}; with {n} samples k is 1 to {n}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def majority(answers: Sequence[Hashable | None]) -> int | None:
    """Index of the first answer that most samples gave; ties go to the answer seen first.

    `None` marks a sample without an answer: it does not vote. `None` is returned if none voted.
    """
    votes: dict[Hashable, list[int]] = {}
    for index, answer in enumerate(answers):
        if answer is not None:
            votes.setdefault(answer, []).append(index)
    # max keeps the first of equals, and a dict keeps the order of insertion.
    return max(votes.values(), key=len)[0] if votes else None


def majority_accuracy(
    answers: Sequence[Sequence[Hashable | None]], correct: Sequence[Sequence[bool]]
) -> float:
    """Share of problems whose most frequent answer is right.

    Args:
        answers: for each problem, the final answer of each sample (`None`: no vote).
        correct: for each problem, whether each sample is right. The vote is judged by the first
            sample that gave the winning answer; a problem without a vote is wrong.
    """
    if not answers:
        raise ValueError("majority_accuracy: no problems were given")
    right = 0
    for given, judged in zip(answers, correct, strict=True):
        winner = majority(given)
        right += winner is not None and bool(judged[winner])
    return right / len(answers)


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws: the share of each seed and of each problem in every draw.

    Attributes:
        seeds: `[D, S]`, rows sum to 1.
        problems: `[D, P]`, rows sum to 1.
    """

    seeds: Array
    problems: Array

    def means(self, values: ArrayLike) -> Array:
        """Mean of `values [S, P]` in each draw: `[D]`. Trailing axes `[S, P, ...]` are kept."""
        table = np.asarray(values, dtype=float)
        expected = self.seeds.shape[1], self.problems.shape[1]
        if table.shape[:2] != expected:
            raise ValueError(
                f"values of {table.shape[:2]} (seeds, problems) met draws over {expected}"
            )
        by_seed = np.tensordot(self.problems, table, axes=(1, 1))
        return np.einsum("ds,ds...->d...", self.seeds, by_seed)


def resample(seeds: int, problems: int, generator: np.random.Generator, draws: int = 4000) -> Draws:
    """Draw `draws` times with replacement `seeds` of `seeds` and `problems` of `problems`."""
    if min(seeds, problems, draws) < 1:
        raise ValueError(
            f"a bootstrap of {seeds} seeds, {problems} problems and {draws} draws: "
            "each must be at least 1"
        )

    def shares(count: int) -> Array:
        picked = generator.multinomial(count, np.full(count, 1 / count), size=draws)
        return picked / count

    return Draws(shares(seeds), shares(problems))


def percentiles(draws: Array, level: float = 0.95) -> tuple[float, float]:
    """Ends of the central `level` of the draws, outwards to whole draws (so infinities pass)."""
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval is between 0 and 1, not {level}")
    tail = (1 - level) / 2
    low = np.quantile(draws, tail, method="lower")
    high = np.quantile(draws, 1 - tail, method="higher")
    return float(low), float(high)


def estimate(values: ArrayLike, draws: Draws, level: float = 0.95) -> Interval:
    """Mean of `values [S, P]` over seeds and problems, with its percentile interval."""
    table = np.asarray(values, float)
    return Interval(float(table.mean()), *percentiles(draws.means(table), level))


def difference(arm: ArrayLike, other: ArrayLike, draws: Draws, level: float = 0.95) -> Interval:
    """Mean of `arm - other`, both `[S, P]`, paired over seeds and problems."""
    return estimate(np.asarray(arm, float) - np.asarray(other, float), draws, level)


def crossing(budget: ArrayLike, accuracy: ArrayLike, target: ArrayLike) -> Array:
    """Budget at which accuracy first meets the target, along the last axis `[..., T]`.

    Linear between evaluation points; 0 if the first point is there already, infinite if none is.
    The target is one number or `[...]`.
    """
    spent, score = np.broadcast_arrays(np.asarray(budget, float), np.asarray(accuracy, float))
    goal = np.asarray(target, float)
    there = score >= goal[..., None]
    after = there.argmax(axis=-1)[..., None]
    before = np.maximum(after - 1, 0)
    x0, x1 = (np.take_along_axis(spent, i, -1)[..., 0] for i in (before, after))
    y0, y1 = (np.take_along_axis(score, i, -1)[..., 0] for i in (before, after))
    rise = np.where(y1 > y0, y1 - y0, 1.0)
    reached = np.where(after[..., 0] == 0, 0.0, x0 + (goal - y0) / rise * (x1 - x0))
    return np.where(there.any(axis=-1), reached, np.inf)


def tokens_to_reach(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """Budget at which a curve of `(budget, accuracy)` points first meets the target.

    Linear between points. 0 if already there at the first point, `None` if never reached.
    """
    if not curve:
        raise ValueError("tokens_to_reach: the curve has no points")
    budget, accuracy = np.asarray(curve, dtype=float).T
    reached = float(crossing(budget, accuracy, target))
    return None if math.isinf(reached) else reached


class Reach(NamedTuple):
    """Budget to reach a target; infinite where it is not reached.

    Attributes:
        value, low, high: the mean curve's crossing and its interval.
        unreached: share of draws that never reach the target.
        end: budget at the last evaluation.
        draws: `[D]` crossings.
    """

    value: float
    low: float
    high: float
    unreached: float
    end: float
    draws: Array


def reach(
    budget: ArrayLike,
    accuracy: ArrayLike,
    target: float,
    draws: Draws,
    level: float = 0.95,
    targets: Array | None = None,
) -> Reach:
    """Budget at which an arm reaches the target, with a bootstrap over seeds and problems.

    Args:
        budget: `[S, T]`, what each seed had spent at each evaluation.
        accuracy: `[S, P, T]`.
        targets: `[D]`, where the target was itself made from the data; `target` if not given.
    """
    spent, score = np.asarray(budget, float), np.asarray(accuracy, float)
    value = float(crossing(spent.mean(axis=0), score.mean(axis=(0, 1)), target))
    each = crossing(draws.seeds @ spent, draws.means(score), target if targets is None else targets)
    unreached = float(np.isinf(each).mean())
    return Reach(value, *percentiles(each, level), unreached, float(spent[:, -1].mean()), each)


class Ratio(NamedTuple):
    """How many times less budget an arm needs than its reference: `reference / arm`.

    Attributes:
        value, low, high: 0 where only the arm never reaches the target (or the reference is there
            from the start), infinite where only the reference never does (or the arm is there
            from the start), NaN where neither does or both are there from the start.
            The interval is over the draws in which the ratio is defined.
        at_least: the reference's budget at the end over the arm's crossing, where only the
            reference does not reach the target: what was seen is a lower bound.
        undefined: share of draws in which the ratio is not defined (NaN, as above).
    """

    value: float
    low: float
    high: float
    at_least: float
    undefined: float


def ratio(reference: Reach, arm: Reach, level: float = 0.95) -> Ratio:
    """Ratio of two arms' budgets to the same target, from the same `Draws`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        each = reference.draws / arm.draws
        value = float(np.divide(reference.value, arm.value))
        bound = float(np.divide(min(reference.value, reference.end), arm.value))
    defined = each[~np.isnan(each)]
    low, high = percentiles(defined, level) if defined.size else (math.nan, math.nan)
    return Ratio(value, low, high, bound, float(np.isnan(each).mean()))
