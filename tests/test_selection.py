"""Rows of the largest variance, against all subsets; chance that is data."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from autodidact.credits.selection import most_varied, random_numbers, row_names
from toys import padded, rows_of


def variance(values: torch.Tensor) -> float:
    return float(values.var(correction=0))


def test_lowest_and_highest_together_vary_most_of_all_subsets():
    random = torch.Generator().manual_seed(0)
    for trial in range(200):
        values = torch.randn(8, generator=random, dtype=torch.float64)
        if trial % 2:
            values = values.round()  # ties
        names = torch.randperm(8, generator=random)
        chosen = most_varied(values, names, 0.5)
        best = max(variance(values[list(some)]) for some in combinations(range(8), 4))
        assert int(chosen.sum()) == 4
        assert variance(values[chosen]) == pytest.approx(best, abs=2e-6)


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.25, 2), (0.3, 3), (1.0, 8)])
def test_a_share_is_rounded_up(share, count):
    assert int(most_varied(torch.arange(8.0), torch.arange(8), share).sum()) == count


def test_rows_without_an_advantage_are_chosen_only_when_needed():
    values = torch.tensor([0.0, 0.0, 1.2, 0.0, -0.6, -0.6, 0.0, 0.0])
    names = torch.arange(8)
    assert most_varied(values, names, 3 / 8).nonzero().flatten().tolist() == [2, 4, 5]
    assert most_varied(values, names, 4 / 8)[[2, 4, 5]].all()


def test_among_equal_values_the_name_decides_and_not_the_place():
    values = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    names = torch.tensor([6, 2, 4, 5, 3, 1])
    chosen = most_varied(values, names, 4 / 6)
    for order in ([5, 4, 3, 2, 1, 0], [2, 0, 1, 5, 3, 4]):
        assert torch.equal(most_varied(values[order], names[order], 4 / 6), chosen[order])
    assert sorted(values[chosen].tolist()) == [-1.0, -1.0, 1.0, 1.0]


def test_nothing_is_chosen_of_nothing():
    none = torch.zeros(0, dtype=torch.long)
    assert most_varied(torch.zeros(0), none, 0.5).shape == (0,)
    assert not most_varied(torch.zeros(3), torch.arange(3), 0.0).any()


def test_a_row_is_named_by_its_tokens_alone():
    batch = rows_of([3, 4, 3, 3])
    names = row_names(batch)
    assert names[0] == names[3] != names[2], "rows 0 and 3 say the same"
    assert torch.equal(row_names(padded(batch)), names)
    assert len(set(names.tolist())) == 3 and (names >= 0).all()


def test_random_numbers_belong_to_the_tokens_of_a_row_and_the_place():
    batch = rows_of([3, 4, 3, 3])
    found = random_numbers(batch)
    assert torch.equal(found[0], found[3]) and not found[~batch.own].any()
    assert len(set(found[:3][batch.own[:3]].tolist())) == 10
    assert torch.equal(random_numbers(padded(batch))[:, :5], found)
    assert torch.equal(random_numbers(batch.select([2, 0, 1, 3])), found[[2, 0, 1, 3]])


def test_random_numbers_are_spread_evenly():
    """Mean 1/2 and variance 1/12 over 20000 tokens, within five standard errors."""
    ids = torch.arange(100)[:, None].expand(100, 201).clone()
    batch = replace(rows_of([200] * 100), ids=ids)
    found = random_numbers(batch)[batch.own]
    assert abs(float(found.mean()) - 0.5) < 5 * (1 / 12 / 20000) ** 0.5
    assert abs(variance(found) - 1 / 12) < 5 * (1 / 180 / 20000) ** 0.5
