"""Batches: streams, selection, splitting and joining."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autodidact.batch import Batch, batch_of, join
from toys import padded, photograph, renumbered, toy_task


def make(lengths: list[tuple[int, int]], group: list[int] | None = None) -> Batch:
    """Rows of (prompt, completion) lengths, every token and every value distinct."""
    task, rows, number = toy_task(len(lengths)), [], 1
    for prompt, completion in lengths:
        ids = list(range(number, number + prompt + completion))
        rows.append((ids[:prompt], ids[prompt:]))
        number += prompt + completion
    return batch_of(
        task.train, [p for p, _ in rows], [c for _, c in rows], task, group=group,
        tokens={"logp": [[-float(i) for i in c] for _, c in rows]},
        values={"reward": [float(i) for i in range(len(rows))]},
    )  # fmt: skip


LENGTHS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=7)


def test_a_value_at_a_column_is_about_the_token_there():
    batch = make([(2, 3), (1, 1)])
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    assert batch.real.tolist() == [[True] * 5, [True, True, False, False, False]]
    assert batch.own.tolist() == [
        [False, False, True, True, True],
        [False, True, False, False, False],
    ]
    assert torch.equal(batch.take("logp")[batch.own], -batch.ids[batch.own].float())
    assert not batch.take("logp")[~batch.own].any()
    assert batch.group.tolist() == [0, 1] and len(batch) == 2


def test_put_leaves_the_old_batch_alone_and_checks_shapes():
    batch = make([(1, 2), (2, 1)])
    more = batch.put(weight=batch.own.float(), side=torch.ones(2))
    assert set(more.streams) == {"logp", "reward", "weight", "side"}
    assert set(batch.streams) == {"logp", "reward"}
    with pytest.raises(
        ValueError,
        match=r"'odd' has shape \(3,\); allowed are \[B, T\] = \(2, 3\), \[B, T, K\] and \[B\] = \(2,\)",
    ):
        batch.put(odd=torch.ones(3))


def test_a_missing_stream_lists_those_present_and_the_nearest():
    with pytest.raises(
        ValueError,
        match=r"no stream 'rewards'; present: \['logp', 'reward'\]; did you mean 'reward'",
    ):
        make([(1, 1)]).take("rewards")
    with pytest.raises(ValueError, match="present: none"):
        replace(make([(1, 1)]), streams={}).take("reward")


@settings(deadline=None, max_examples=40)
@given(LENGTHS, st.integers(1, 4))
def test_pieces_joined_are_the_batch(lengths, rows):
    batch = make(lengths)
    pieces = batch.split(rows)
    assert all(1 <= len(piece) <= rows for piece in pieces)
    whole = join(pieces)
    before, after = photograph(batch), photograph(whole)
    assert all(torch.equal(before[name], after[name]) for name in before if name != "group")
    assert len(whole.group.unique()) == len(batch)
    assert whole.rows == batch.rows
    assert all(int(piece.real.sum(1).max()) == piece.ids.shape[1] for piece in pieces), (
        "no empty column"
    )


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(0, 3))
def test_groups_stay_in_one_piece(group, more):
    batch = renumbered(make([(1, 1 + i % 3) for i in range(len(group))], group))
    largest = max(group.count(g) for g in group)
    pieces = batch.split(largest + more, "group")
    assert sorted(p.question for piece in pieces for p in piece.rows) == sorted(
        p.question for p in batch.rows
    )
    homes = [set(piece.group.tolist()) for piece in pieces]
    assert sum(map(len, homes)) == len(set.union(*homes)), "no group in two pieces"
    assert all(len(piece) <= largest + more for piece in pieces)
    if largest > 1:
        with pytest.raises(ValueError, match=f"a group of {largest} rows cannot be split"):
            batch.split(largest - 1, "group")


def test_select_keeps_rows_with_their_values_and_drops_columns_nobody_uses():
    batch = padded(make([(2, 3), (1, 1), (1, 2)]))
    few = batch.select([2, 1])
    assert few.ids.tolist() == [[8, 9, 10], [6, 7, 0]]
    assert few.take("reward").tolist() == [2.0, 1.0]
    assert few.rows == (batch.rows[2], batch.rows[1])
    assert few.take("logp").tolist() == [[0, -9, -10], [0, -7, 0]]


def test_a_batch_may_be_empty():
    empty = make([(1, 1), (2, 2)]).select([])
    assert len(empty) == 0 and empty.ids.shape == (0, 0)
    assert len(join([empty, empty])) == 0
    full = make([(1, 1)])
    assert torch.equal(join([empty, full]).ids, full.ids)


def test_joined_groups_stay_apart():
    one, two = make([(1, 1)] * 3, [0, 0, 7]), make([(1, 1)] * 2, [0, 7])
    assert len(join([one, two]).group.unique()) == 4


def test_what_cannot_be_joined_is_a_bug():
    one = make([(1, 1)])
    for other in (replace(one, temperature=0.5), one.put(extra=torch.ones(1))):
        with pytest.raises(AssertionError):
            join([one, other])


def test_invariants():
    batch = make([(1, 2), (1, 1)])
    left = {n: torch.nn.functional.pad(getattr(batch, n), (1, 0)) for n in ("ids", "real", "own")}
    with pytest.raises(AssertionError, match="padding stands on the right"):
        replace(batch, **left, streams={})
    with pytest.raises(AssertionError, match="an own token must be real"):
        replace(batch, own=torch.ones_like(batch.own))
    with pytest.raises(AssertionError):
        replace(batch, rows=batch.rows[:1])
    with pytest.raises(ValueError, match="pieces of 0 rows"):
        batch.split(0)


def test_shapes_are_checked_in_tests():
    from jaxtyping import TypeCheckError

    batch = make([(1, 2), (1, 1)])
    with pytest.raises(TypeCheckError):
        replace(batch, group=batch.group[None])
    with pytest.raises(TypeCheckError):
        replace(batch, own=batch.own.long())
