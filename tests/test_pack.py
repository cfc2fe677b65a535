"""Packing without a model: what each token reads is followed by hand through the packed view."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autodidact.pack import Segment, _bins, joined, packed
from autodidact.view import View

TOKENS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=7)
SHARES = st.one_of(st.none(), st.integers(1, 4))
CAPACITIES = st.one_of(st.none(), st.integers(1, 20))


def view_of(rows: list[list[int]], role: str = "policy", grad: bool = True) -> View:
    """Rows padded on the right; every output is asked."""
    width = max(map(len, rows))
    real = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    ids = torch.tensor([[*row, *[9] * (width - len(row))] for row in rows])
    at = torch.where(real, torch.arange(ids.numel()).view(ids.shape), -1)
    return View(ids, real, at, role, grad)


def heard(view: View) -> list[list[tuple[int, int]]]:
    """For each row of the batch what its last asked output has read: (id, position) in order."""
    if view.document is None:
        return [
            list(zip(ids[real].tolist(), range(int(real.sum())), strict=True))
            for ids, real in zip(view.ids, view.real, strict=True)
        ]
    parents = view.parent.tolist() if view.parent is not None else [-1] * view.ids.numel()
    document, real, width = view.document, view.real, view.ids.shape[1]
    found = []
    for row in view.at:
        place, column = divmod(int(row[row >= 0][-1]), width)
        assert real[place, column]
        chain = [int(document[place, column])]
        while parents[chain[0]] >= 0:
            chain.insert(0, parents[chain[0]])
        reads = []
        for number in chain:
            member = (document[place] == number) & real[place]
            assert member.any(), "the ancestors stand in the same row"
            member &= (torch.arange(width) <= column) | torch.tensor(number != chain[-1])
            reads += zip(
                view.ids[place][member].tolist(), view.position[place][member].tolist(), strict=True
            )
        found.append(reads)
    return found


@settings(max_examples=300, deadline=None)
@given(TOKENS, CAPACITIES, SHARES)
def test_every_row_is_still_there_and_no_packed_row_is_too_long(rows, capacity, share):
    view = view_of(rows)
    found = packed(view, capacity, share)
    assert heard(found) == heard(view) == [list(zip(r, range(len(r)), strict=True)) for r in rows]
    assert torch.equal(found.asked, view.asked)
    # Output by output: each asked output stands at its own token and position.
    assert torch.equal(found.ids.flatten()[found.at[found.asked]], view.ids[view.real])
    columns = torch.arange(view.ids.shape[1]).expand(view.ids.shape)
    assert torch.equal(found.position.flatten()[found.at[found.asked]], columns[view.real])
    longest = max(map(len, rows))
    if capacity is None:
        assert len(found.ids) == 1 and found.real.all()
    else:
        assert found.ids.shape[1] <= max(capacity, longest)
        if share is None:
            assert len(found.ids) <= len(rows)
    total = sum(map(len, rows))
    assert int(found.real.sum()) <= total
    if share is None:
        used = Counter(found.at[found.asked].tolist())
        assert int(found.real.sum()) == total == len(used), "every token exactly once"
    assert packed(found, capacity, share) is found


@settings(max_examples=100, deadline=None)
@given(TOKENS)
def test_with_no_least_length_every_distinct_prefix_is_read_exactly_once(rows):
    found = packed(view_of(rows), None, 1)
    prefixes = {tuple(row[: i + 1]) for row in rows for i in range(len(row))}
    assert int(found.real.sum()) == len(prefixes)


def fewest(sizes: list[int], capacity: int) -> int:
    """The least number of bins, by trying everything."""

    def place(rest: list[int], free: tuple[int, ...]) -> int:
        if not rest:
            return len(free)
        best = place(rest[1:], (*free, capacity - rest[0]))
        for i in {f: i for i, f in enumerate(free) if f >= rest[0]}.values():
            left = (*free[:i], free[i] - rest[0], *free[i + 1 :])
            best = min(best, place(rest[1:], left))
        return best

    return place(sizes, ())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=7), st.integers(10, 14))
def test_bins_hold_every_segment_once_and_are_few(sizes, capacity):
    segments = [Segment((i,), 0, size, -1) for i, size in enumerate(sizes)]
    bins = _bins(segments, capacity)
    assert sorted(i for each in bins for i in each) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in each) <= capacity for each in bins)
    assert len(bins) <= 11 / 9 * fewest(sizes, capacity) + 6 / 9


def test_a_group_reads_its_prompt_once_and_nested_prefixes_are_nested():
    prompt, turn = list(range(10, 20)), list(range(30, 34))
    rows = [[*prompt, 1, 2], [*prompt, *turn, 3], [*prompt, *turn, 4, 5], [*prompt, 6], [7, 8]]
    found = packed(view_of(rows), None, 4)
    assert int(found.real.sum()) == 10 + 2 + 4 + 1 + 2 + 1 + 2
    sizes = Counter(found.document[found.real].tolist())
    assert sorted(sizes.values()) == [1, 1, 2, 2, 2, 4, 10]
    depth = {-1: -1}
    for number, parent in enumerate(found.parent.tolist()):
        depth[number] = depth[parent] + 1
    assert sorted(depth.values()) == [-1, 0, 0, 1, 1, 1, 2, 2]
    # A shared turn of four tokens is not worth a segment when five are asked for.
    assert int(packed(view_of(rows), None, 5).real.sum()) == 22 + 4
    assert packed(view_of(rows), None, 15).parent is None


def test_a_tree_that_does_not_fit_is_cut_into_trees_that_do():
    prompt = list(range(10, 16))
    rows = [[*prompt, i, i, i] for i in range(4)]
    found = packed(view_of(rows), 12, 3)
    assert found.ids.shape == (2, 12) and found.real.all()
    assert heard(found) == heard(view_of(rows))
    alone = packed(view_of(rows), 10, 3)
    assert alone.ids.shape == (4, 9) and alone.parent is None


def test_equal_ids_at_other_positions_are_not_shared():
    view = view_of([[1, 2, 3, 4], [1, 2, 3, 5]])
    moved = View(view.ids, view.real, view.at, position=torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]]))
    assert packed(view, None, 2).ids.shape == (1, 5)
    found = packed(moved, None, 2)
    assert found.parent is None and found.position.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_padding_may_stand_anywhere():
    ids = torch.tensor([[0, 5, 6], [7, 0, 8]])
    real = torch.tensor([[False, True, True], [True, False, True]])
    found = packed(View(ids, real, torch.where(real, torch.arange(6).view(2, 3), -1)))
    assert found.ids.tolist() == [[5, 6, 7, 8]] and found.position.tolist() == [[1, 2, 0, 2]]
    assert found.at.tolist() == [[-1, 0, 1], [2, -1, 3]]


def test_views_of_one_role_are_joined_row_by_row():
    one, two = view_of([[1, 2, 3], [4]]), view_of([[1, 2, 5, 6], [7, 8]], grad=False)
    two = replace(two, at=two.at[:, 1:])
    both = joined([one, two])
    assert both.grad and both.role == "policy" and both.ids.shape == (4, 4)
    assert heard(both) == heard(one) + heard(two)
    for part, view in zip(both.at.chunk(2), (one, two), strict=True):
        assert torch.equal(part >= 0, view.asked)
        spoken = view.ids.flatten()[view.at[view.asked]]
        assert torch.equal(both.ids.flatten()[part[view.asked]], spoken)
    with pytest.raises(AssertionError, match="one reader"):
        joined([one, view_of([[1]], "initial")])
    with pytest.raises(AssertionError, match="before they are packed"):
        joined([packed(one), two])
