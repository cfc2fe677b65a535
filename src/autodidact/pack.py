"""Packing: any view read without padding, and every shared prefix read once.

Shapes: R x S the rows and columns of a view, n segments. Packing is a saving, never a choice of
meaning: each token reads what it read before, at the position that it had before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Int

from autodidact import attention
from autodidact.view import View

if TYPE_CHECKING:
    from autodidact.model import LM

SHARE = 16
"""A prefix shared by fewer tokens is read again: it saves less than its segment costs."""


class Segment(NamedTuple):
    """Tokens that follow each other.

    Attributes:
        rows: the rows of the view that hold these tokens; more than one for a shared prefix.
        start, stop: which of the real tokens of those rows.
        parent: number of the segment that it continues, -1 for none.
    """

    rows: Sequence[int]
    start: int
    stop: int
    parent: int


def lean(lm: LM, view: View) -> View:
    """The view as a model reads it at the least cost, where its layout is free.

    That is without padding, and with every shared prefix once, where the model can read it so
    and where it saves; else the view as it is.
    """
    if len(view.ids) < 2 or not lm.packs:
        return view
    found = packed(view, attention.capacity(lm.base.base_model), SHARE if lm.shares else None)
    return found if found.ids.numel() < view.ids.numel() else view


def packed(view: View, capacity: int | None = None, share: int | None = None) -> View:
    """The rows of a view laid one after the other into few rows; a packed view stays as it is.

    First-fit decreasing bin packing (at most 11/9 of the fewest rows possible, plus 6/9). With
    `share` common prefixes of the rows become segments that are read once (a compressed trie),
    which only a causal reader can read.

    Args:
        capacity: columns of a row, raised to those of the longest row of the view; `None` makes
            one row of everything. A tree of prefixes that would not fit is shared less.
        share: least length of a shared prefix that is worth a segment; `None` shares nothing.
    """
    if view.document is not None or not view.real.any():
        return view
    lengths = view.real.sum(1).tolist()
    if capacity is not None:
        capacity = max(capacity, *lengths)
    if share is None:
        segments = [Segment((r,), 0, size, -1) for r, size in enumerate(lengths) if size]
    else:
        segments = _trie(view, share, capacity)
    return _laid(view, segments, _bins(segments, capacity))


def joined(views: Sequence[View]) -> View:
    """The rows of several views of one role one after the other; `at` is stacked, [len * B, T]."""
    assert len({view.role for view in views}) == 1, "one reader"
    assert all(view.document is None for view in views), "views are joined before they are packed"
    width, offset = max(view.ids.shape[1] for view in views), 0
    ids, real, position, at = [], [], [], []
    for view in views:
        rows, columns = view.ids.shape
        wide = (0, width - columns)
        ids.append(torch.nn.functional.pad(view.ids, wide))
        real.append(torch.nn.functional.pad(view.real, wide))
        position.append(torch.nn.functional.pad(_positions(view), wide))
        place = (view.at // columns + offset) * width + view.at % columns
        at.append(torch.where(view.asked, place, -1))
        offset += rows
    grad = any(view.grad for view in views)
    return View(
        torch.cat(ids), torch.cat(real), torch.cat(at), views[0].role, grad, torch.cat(position)
    )


def _positions(view: View) -> Int[torch.Tensor, "R S"]:
    """Where the tokens stand for the reader: in their columns, unless the view says otherwise."""
    if view.position is not None:
        return view.position
    return torch.arange(view.ids.shape[1], device=view.ids.device).expand(view.ids.shape)


def _trie(view: View, share: int, capacity: int | None) -> list[Segment]:
    """The segments of the rows, parents before children.

    Rows in lexicographic order have their common prefixes with their neighbours.
    """
    lengths = view.real.sum(1)
    kept = torch.arange(view.ids.shape[1], device=lengths.device) < lengths[:, None]
    positions = _positions(view)
    # One number for a token and its position; the end of a row (-1) comes before any of them.
    tokens = torch.full_like(view.ids, -1)
    tokens[kept] = (view.ids * (positions.max() + 1) + positions)[view.real]
    keys = tokens.tolist()
    order = sorted(range(len(keys)), key=keys.__getitem__)
    tokens, kept = tokens[order], kept[order]
    same = (tokens[1:] == tokens[:-1]) & kept[1:]
    common = [0, *same.long().cumprod(1).sum(1).tolist()]
    size = lengths.tolist()

    segments: list[Segment] = []
    waiting = [(0, len(order), 0, -1)]
    while waiting:
        low, high, depth, parent = waiting.pop()
        alone = high == low + 1
        shared = size[order[low]] if alone else min(common[low + 1 : high])
        if alone or shared - depth >= share:
            rows = order[low:high]
            if not alone and parent < 0 and capacity is not None:
                tree = shared + sum(size[row] - shared for row in rows)
                if tree > capacity:
                    middle = (low + high) // 2
                    waiting += [(middle, high, 0, -1), (low, middle, 0, -1)]
                    continue
            if shared > depth:
                segments.append(Segment(rows, depth, shared, parent))
                parent = len(segments) - 1
            depth = shared
        if not alone:
            cuts = [low, *(i for i in range(low + 1, high) if common[i] == shared), high]
            waiting += [
                (start, stop, depth, parent)
                for start, stop in zip(cuts[-2::-1], cuts[:0:-1], strict=True)
            ]
    return segments


def _bins(segments: Sequence[Segment], capacity: int | None) -> list[list[int]]:
    """The numbers of the segments of each row: whole trees, first-fit decreasing."""
    trees: dict[int, list[int]] = {}
    root: list[int] = []
    for number, segment in enumerate(segments):
        root.append(number if segment.parent < 0 else root[segment.parent])
        trees.setdefault(root[-1], []).append(number)
    sizes = {r: sum(segments[i].stop - segments[i].start for i in t) for r, t in trees.items()}
    room = capacity if capacity is not None else sum(sizes.values())
    bins: list[list[int]] = []
    left: list[int] = []
    for tree in sorted(trees, key=lambda r: -sizes[r]):
        place = next((i for i, free in enumerate(left) if free >= sizes[tree]), len(bins))
        if place == len(bins):
            bins.append([])
            left.append(room)
        bins[place] += trees[tree]
        left[place] -= sizes[tree]
    return bins


def _laid(view: View, segments: Sequence[Segment], bins: Sequence[Sequence[int]]) -> View:
    """The view whose rows hold the segments of the bins, in that order."""
    device = view.ids.device
    sizes = [[segments[i].stop - segments[i].start for i in row] for row in bins]
    shape = (len(bins), max(map(sum, sizes)))
    ids, position = (torch.zeros(shape, dtype=torch.long, device=device) for _ in range(2))
    document, real = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    place = torch.full((view.ids.numel(),), -1, device=device)
    tokens = view.real.flatten().nonzero().squeeze(1)
    first = [0, *view.real.sum(1).cumsum(0).tolist()]
    old = [view.ids.flatten(), _positions(view).flatten()]
    renamed = {old: new for new, old in enumerate(i for row in bins for i in row)}
    for row, members in enumerate(bins):
        column = 0
        for number, size in zip(members, sizes[row], strict=True):
            segment, there = segments[number], slice(column, column + size)
            for each in segment.rows:
                source = tokens[first[each] + segment.start : first[each] + segment.stop]
                place[source] = torch.arange(size, device=device) + row * shape[1] + column
            ids[row, there], position[row, there] = (value[source] for value in old)
            document[row, there], real[row, there] = renamed[number], True
            column += size
    at = torch.where(view.asked, place[view.at], -1)
    assert torch.equal(at >= 0, view.asked), "only outputs at real tokens are asked"
    parent = None
    if any(segment.parent >= 0 for segment in segments):
        parent = torch.tensor(
            [renamed.get(segments[i].parent, -1) for row in bins for i in row], device=device
        )
    return replace(
        view, ids=ids, real=real, at=at, position=position, document=document, parent=parent
    )
