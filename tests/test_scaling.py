"""Numbers of tokens on a common scale, against the formulas."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as mp

from autodidact.credits.scaling import minmax, token_group_mean_std, whiten
from toys import rows_of

ROWS = [[0, 1], [2, 3, 4]]
"""Which rows each of two processes has."""


def table() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(5, 6, generator=random, dtype=torch.float64) + 0.3
    return values, torch.rand(5, 6, generator=random) < 0.6


def test_whitened_tokens_have_mean_zero_and_variance_one():
    values, among = table()
    found = whiten(values, among)
    known = values[among]
    expected = (known - known.mean()) / (known.var(correction=0) + 1e-8).sqrt()
    assert torch.allclose(found[among], expected, rtol=1e-12)
    assert not found[~among].any()
    assert abs(float(found[among].mean())) < 1e-14
    assert float(found[among].var(correction=0)) == pytest.approx(1, abs=1e-7)
    kept = whiten(values, among, centre=False)
    assert torch.allclose(kept[among] - known.mean() / (known.var(correction=0) + 1e-8).sqrt(),
                          expected, rtol=1e-12)  # fmt: skip


@pytest.mark.parametrize("value", [0.1, 1 / 3])
def test_equal_float32_values_whiten_to_nothing_visible(value):
    among = torch.ones(3, 7, dtype=torch.bool)
    assert whiten(torch.full((3, 7), value), among).abs().max() < 1e-10
    assert not whiten(torch.full((3, 7), value), ~among).any(), "nothing counts"


def test_minmax_goes_from_zero_to_one_in_each_row_or_part():
    values, among = table()
    rows = minmax(values, among)
    for row in range(5):
        known = values[row][among[row]]
        expected = (known - known.min()) / (known.max() - known.min())
        assert torch.allclose(rows[row][among[row]], expected, rtol=1e-12, atol=1e-15)
    part = torch.tensor([40, -7, 40, -7, 40])
    parts = minmax(values, among, part)
    for number in (40, -7):
        here = among & (part == number)[:, None]
        known = values[here]
        expected = (known - known.min()) / (known.max() - known.min())
        assert torch.allclose(parts[here], expected, rtol=1e-12, atol=1e-15)
    assert not rows[~among].any() and not parts[~among].any()


def test_where_all_are_equal_minmax_says_flat():
    values = torch.tensor([[2.0, 2.0, 9.0], [1.0, 3.0, 9.0], [5.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    among = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    expected = [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert minmax(values, among, flat=0.5).tolist() == expected


def test_mean_and_deviation_over_the_tokens_of_a_group_weigh_by_length():
    batch = rows_of([3, 1, 4, 2], logp=torch.arange(10.0).sin())
    batch = replace(batch, group=torch.tensor([5, 2, 5, 2]))
    values = batch.take("logp")
    mean, std = token_group_mean_std(values, batch.own, batch.group)
    for row in range(4):
        known = values[batch.own & (batch.group == batch.group[row])[:, None]]
        assert float(mean[row]) == pytest.approx(float(known.mean()), rel=1e-12)
        assert float(std[row]) == pytest.approx(float(known.std(correction=0)), rel=1e-12)
    whole = (values - mean[:, None]) * batch.own
    assert abs(float(whole[:, 1:][batch.group == 5].sum())) < 1e-14, "token-weighted mean 0"


def test_a_group_without_tokens_has_mean_and_deviation_zero():
    values, among = table()
    mean, std = token_group_mean_std(values, torch.zeros_like(among), torch.arange(5))
    assert not mean.any() and not std.any()


# ------------------------------------------------------------------ several processes


def part(rank: int, place: str) -> None:
    """What one of two processes does: its own rows."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{place}/meet", rank=rank, world_size=2)
    values, among = (each[ROWS[rank]] for each in table())
    found = [whiten(values, among), whiten(values, among, centre=False)]
    torch.save(found, os.path.join(place, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed part")
def test_two_processes_whiten_as_one_does(tmp_path):
    mp.spawn(part, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    whole = [whiten(*table()), whiten(*table(), centre=False)]
    for one, two, expected in zip(*found, whole, strict=True):
        assert torch.allclose(torch.cat([one, two]), expected, rtol=1e-12, atol=1e-15)
