"""Statistics against enumeration of small cases, closed forms, scipy and simulation."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from autodidact.statistics import (
    Draws,
    crossing,
    difference,
    estimate,
    majority,
    majority_accuracy,
    pass_at_k,
    percentiles,
    ratio,
    reach,
    resample,
    tokens_to_reach,
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("n", "c"), [(n, c) for n in range(1, 7) for c in range(n + 1)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n: int, c: int):
    samples = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        subsets = list(itertools.combinations(samples, k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)
        assert pass_at_k(n, c, k) == pytest.approx(stats.hypergeom(n, c, k).sf(0), abs=1e-9)


def test_pass_at_k_is_unbiased():
    # E over c ~ Binomial(n, p) of the estimate is 1 - (1 - p)^k, exactly.
    n, p = 10, 0.23
    weights = stats.binom(n, p).pmf(range(n + 1))
    for k in (1, 3, 10):
        mean = sum(w * pass_at_k(n, c, k) for c, w in enumerate(weights))
        assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    assert pass_at_k(10_000, 3, 100) == pytest.approx(
        1 - math.prod((9_900 - i) / (10_000 - i) for i in range(3)), abs=1e-12
    )


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_impossible_counts(n: int, c: int, k: int):
    with pytest.raises(ValueError, match=r"pass@k: .* 4 samples"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (["1", "2", "2"], 1),
        (["2", "1", "1", "2"], 0),  # a tie: the answer seen first
        ([None, None, "7"], 2),  # None does not vote
        ([None, "3", "4", "4", None, None], 2),
        ([None, None], None),
        ([], None),
    ],
)
def test_majority(answers: list[str | None], winner: int | None):
    assert majority(answers) == winner


def test_majority_agrees_with_a_counter_without_ties():
    for seed in range(200):
        answers = [None if x == 0 else int(x) for x in generator(seed).integers(0, 4, 9)]
        votes = Counter(answer for answer in answers if answer is not None).most_common()
        if len(votes) == 1 or votes[0][1] > votes[1][1]:
            assert answers[majority(answers)] == votes[0][0]


def test_majority_accuracy():
    answers = [["1", "2", "2"], ["5", "6"], [None, None]]
    correct = [[False, True, True], [True, False], [False, False]]
    assert majority_accuracy(answers, correct) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no problems"):
        majority_accuracy([], [])


def test_the_bootstrap_draws_what_enumeration_says():
    values = np.array([[0.0, 1.0], [3.0, 10.0]])
    # 4 ordered choices of seeds times 4 of problems are equally likely.
    pairs = list(itertools.product(range(2), repeat=2))
    exact = Counter(
        round(float(values[np.ix_(seeds, problems)].mean()), 9)
        for seeds in pairs
        for problems in pairs
    )
    count = 40_000
    drawn = Counter(np.round(resample(2, 2, generator(), count).means(values), 9).tolist())
    assert set(drawn) == set(exact)
    for value, ways in exact.items():
        p = ways / 16
        assert abs(drawn[value] / count - p) < 4.5 * math.sqrt(p * (1 - p) / count)


def test_bootstrap_variance_is_the_plug_in_variance():
    values = generator(3).normal(size=(5, 1))
    drawn = resample(5, 1, generator(4), 40_000).means(values)
    # The spread of a sample variance of n near-normal draws is sqrt(2 / n) of it.
    assert drawn.var() == pytest.approx(values.var() / 5, rel=4.5 * math.sqrt(2 / 40_000))


def test_intervals_agree_with_scipy():
    values = generator(1).random(80)
    found = estimate(values[None], resample(1, 80, generator(2), 20_000))
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=generator(3)
    ).confidence_interval
    assert found.value == pytest.approx(values.mean(), abs=1e-12)
    error = 0.1 * stats.sem(values)  # Monte Carlo error of a 2.5% quantile is 0.02 of it, each
    assert found.low == pytest.approx(theirs.low, abs=error)
    assert found.high == pytest.approx(theirs.high, abs=error)


def test_trailing_axes_are_kept():
    draws, values = resample(3, 4, generator(), 50), generator(1).random((3, 4, 6))
    together = draws.means(values)
    assert together.shape == (50, 6)
    for at in range(6):
        np.testing.assert_allclose(together[:, at], draws.means(values[..., at]), atol=1e-12)


def test_differences_are_paired():
    base = generator(5).random((3, 40))
    draws = resample(3, 40, generator(6))
    found = difference(base + 0.1, base, draws)
    assert found == pytest.approx((0.1, 0.1, 0.1), abs=1e-12)
    assert found.sure
    assert not estimate(base - base.mean(), draws).sure


def test_the_same_generator_gives_the_same_draws():
    one, two = (resample(3, 7, generator(8), 10) for _ in range(2))
    np.testing.assert_array_equal(one.seeds, two.seeds)
    np.testing.assert_array_equal(one.problems, two.problems)
    np.testing.assert_allclose(one.problems.sum(axis=1), 1)


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 5\) .* met draws over \(2, 4\)"):
        resample(2, 4, generator(), 3).means(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="at least 1"):
        resample(0, 4, generator())
    with pytest.raises(ValueError, match="between 0 and 1"):
        percentiles(np.arange(4.0), 95)


CURVE = [(0, 0.2), (100, 0.4), (300, 0.3), (400, 0.8)]


@pytest.mark.parametrize(
    ("target", "budget"),
    [(0.1, 0), (0.2, 0), (0.3, 50), (0.4, 100), (0.55, 350), (0.8, 400), (0.81, None)],
)
def test_tokens_to_reach(target: float, budget: float | None):
    assert tokens_to_reach(CURVE, target) == (
        None if budget is None else pytest.approx(budget, abs=1e-9)
    )


def test_tokens_to_reach_needs_a_curve():
    with pytest.raises(ValueError, match="no points"):
        tokens_to_reach([], 0.5)


def test_crossing_of_many_curves_is_the_crossing_of_each():
    accuracy = generator(9).random((5, 6, 8))
    budget = np.cumsum(generator(10).random((5, 1, 8)), axis=-1)
    together = crossing(budget, accuracy, 0.7)
    for i, j in itertools.product(range(5), range(6)):
        one = tokens_to_reach(list(zip(budget[i, 0], accuracy[i, j], strict=True)), 0.7)
        assert together[i, j] == pytest.approx(math.inf if one is None else one)


def test_reach_counts_the_draws_that_never_get_there():
    # One of two problems is learnt: a draw has 0, 1 or 2 of it with chances 1/4, 1/2, 1/4.
    accuracy = np.array([[[0.0, 1.0], [0.0, 0.0]]])
    count = 20_000
    found = reach([[0.0, 100.0]], accuracy, 0.5, resample(1, 2, generator(), count))
    assert found.value == pytest.approx(100)
    assert (found.low, found.high) == (pytest.approx(50), math.inf)
    assert abs(found.unreached - 0.25) < 4.5 * math.sqrt(0.25 * 0.75 / count)
    assert found.end == 100


def fixed(budget: list[float], accuracy: list[float], target: float = 0.5):
    """The reach of one seed and one problem: every draw is the same."""
    draws = Draws(np.ones((5, 1)), np.ones((5, 1)))
    return reach([budget], [[accuracy]], target, draws)


def test_ratio_in_every_case():
    slow, fast = fixed([0, 300], [0, 1]), fixed([0, 100], [0, 1])
    never, there = fixed([0, 200], [0, 0.4]), fixed([0, 100], [0.6, 1])
    assert ratio(slow, fast)[:5] == pytest.approx((3, 3, 3, 3, 0))
    assert ratio(slow, slow)[:3] == pytest.approx((1, 1, 1))
    assert ratio(slow, never).value == 0
    unbounded = ratio(never, fast)
    assert unbounded.value == math.inf
    assert unbounded.at_least == pytest.approx(200 / 50)  # what the reference spent in vain
    both = ratio(never, never)
    assert math.isnan(both.value)
    assert math.isnan(both.low)
    assert both.undefined == 1
    assert ratio(slow, there).value == math.inf
    assert math.isnan(ratio(there, there).value)


def test_ratio_is_paired():
    accuracy = (generator(2).random((3, 30, 1)) < np.linspace(0.1, 0.9, 7)).astype(float)
    draws = resample(3, 30, generator(3))
    budget = np.tile(np.linspace(0, 600, 7), (3, 1))
    found = ratio(reach(budget * 4, accuracy, 0.5, draws), reach(budget, accuracy, 0.5, draws))
    assert found[:3] == pytest.approx((4, 4, 4), rel=1e-9)


def coverage(seeds: int, problems: int, samples: int, spread: float, sets: int = 300) -> float:
    """Share of simulated data sets whose interval holds the true accuracy, 0.5."""
    hits = 0
    for number in range(sets):
        source = generator(number)
        luck = source.normal(0, spread, (seeds, 1))
        hard = source.normal(0, 0.05 if spread > 0.08 else 0.2, (1, problems))
        right = source.binomial(samples, np.clip(0.5 + luck + hard, 0, 1), (seeds, problems))
        found = estimate(right / samples, resample(seeds, problems, source, 500))
        hits += found.low <= 0.5 <= found.high
    return hits / sets


def test_coverage_holds_where_problems_are_the_spread():
    # 300 sets: the standard error of a coverage of 0.96 is 0.011.
    assert coverage(3, 100, 8, 0.0) > 0.96 - 4 * 0.011


def test_coverage_of_three_seeds_is_what_the_module_says_where_seeds_are_the_spread():
    # At most 1 - 2 / 2^3 = 0.75 beyond what problems add; standard error 0.025.
    assert coverage(3, 100, 8, 0.1) == pytest.approx(0.77, abs=4 * 0.025)
    assert coverage(10, 100, 8, 0.1) > 0.92 - 4 * 0.016
