"""Shares and quantiles of the tokens of a batch, over all processes; rows chosen likewise."""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from autodidact.credits.quantile import everywhere, highest, quantile
from autodidact.credits.selection import most_varied

ROWS = [[0], [1, 2, 3]]
"""Which rows each of two processes has."""


def table(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(4, 7, generator=random, dtype=torch.float64)
    return values, torch.rand(4, 7, generator=random) < 0.7


@pytest.mark.parametrize("share", [Fraction(1, 100), Fraction(1, 5), 0.5, Fraction(9, 10), 1])
@pytest.mark.parametrize("seed", range(3))
def test_the_highest_are_the_first_of_all_in_order_rounded_up(share, seed):
    values, counted = table(seed)
    found = highest(values, counted, share)
    known = sorted(values[counted].tolist(), reverse=True)
    count = math.ceil(share * len(known))
    assert int(found.sum()) == count and not (found & ~counted).any()
    assert sorted(values[found].tolist(), reverse=True) == known[:count]


def test_all_that_tie_with_the_last_are_kept():
    values = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])
    counted = torch.ones(1, 5, dtype=torch.bool)
    assert highest(values, counted, Fraction(2, 5)).tolist() == [[True, True, True, True, False]]
    assert highest(values, counted, Fraction(1, 5)).tolist() == [[True] + [False] * 4]
    near = values + torch.tensor([0.0, 0.0, 1e-7, -1e-7, 0.0])
    assert int(highest(near, counted, Fraction(2, 5)).sum()) == 4, "a rounding makes no difference"


def test_nothing_is_chosen_of_nothing_or_of_a_share_of_none():
    values, counted = table(0)
    assert not highest(values, torch.zeros_like(counted), 0.5).any()
    assert not highest(values, counted, 0.0).any()
    assert highest(values[:0], counted[:0], 0.5).shape == (0, 7)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.77, 1.0])
def test_a_quantile_is_that_of_numpy(share):
    for seed in range(3):
        values, counted = table(seed)
        expected = np.quantile(values[counted].numpy(), share)
        assert float(quantile(values, counted, share)) == pytest.approx(expected, rel=1e-12)


def test_a_quantile_of_one_value_is_it_and_of_nothing_nothing():
    values, counted = table(0)
    one = torch.zeros_like(counted)
    assert quantile(values, one, 0.3).isnan()
    one[2, 3] = True
    assert quantile(values, one, 0.3) == values[2, 3]


def test_in_one_process_everywhere_is_here():
    values = torch.arange(3)
    assert everywhere(values) is values


# ------------------------------------------------------------------ several processes


def answers(rows: list[int]) -> list[torch.Tensor]:
    """What a process with these rows says about them; the second of the two has all tokens."""
    values, counted = table(0)
    values, counted = values[rows], counted[rows]
    names = torch.tensor([7, 3, 5, 1])[rows]
    return [
        highest(values, counted, Fraction(1, 4)),
        quantile(values, counted, 0.3).expand(len(rows)),
        most_varied(torch.tensor([0.0, 1.0, 0.0, -1.0])[rows], names, 0.75),
        highest(values, counted & (values > 9), 0.5),
    ]


def part(rank: int, place: str) -> None:
    """What one of two processes does."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{place}/meet", rank=rank, world_size=2)
    gathered = everywhere(torch.arange(len(ROWS[rank])) + 10 * rank)
    torch.save([gathered, *answers(ROWS[rank])], os.path.join(place, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed part")
def test_two_processes_choose_what_one_does(tmp_path):
    mp.spawn(part, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert all(each[0].tolist() == [0, 10, 11, 12] for each in found)
    for one, two, whole in zip(found[0][1:], found[1][1:], answers([0, 1, 2, 3]), strict=True):
        assert torch.equal(torch.cat([one, two]), whole)
