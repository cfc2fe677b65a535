"""Batches of token rows with named streams.

Shapes: B rows, T columns. Law 1: a value at column t of a stream is about token t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Int, Shaped
from torch.nn.functional import pad

from autodidact.names import nearest
from autodidact.problem import Problem, Task

Unit = Literal["row", "group"]


@dataclass(frozen=True)
class Batch:
    """Rows of tokens and what is known about each token and row.

    Attributes:
        ids: token ids; columns where `real` is false hold any id.
        real: which columns hold a token. Padding is this mask, never a particular id, and stands
            on the right.
        own: which tokens the policy itself chose (not the prompt, not a tool's output).
        group: rows with equal numbers answer the same problem (or form a pair).
        rows: the problem of each row.
        task: where the problems come from; renders prompts and grades answers.
        temperature: temperature at which the own tokens were drawn, and are scored.
        streams: values per token, [B, T] or, where there are several of each, [B, T, K], or per
            row, [B].
    """

    ids: Int[torch.Tensor, "B T"]
    real: Bool[torch.Tensor, "B T"]
    own: Bool[torch.Tensor, "B T"]
    group: Int[torch.Tensor, "B"]
    rows: tuple[Problem, ...]
    task: Task
    temperature: float = 1.0
    streams: Mapping[str, Shaped[torch.Tensor, "B ..."]] = field(default_factory=dict)

    def __post_init__(self):
        assert self.ids.shape == self.real.shape == self.own.shape
        assert len(self.rows) == len(self.group) == len(self.ids)
        assert not (self.own & ~self.real).any(), "an own token must be real"
        assert not (self.real[:, 1:] & ~self.real[:, :-1]).any(), "padding stands on the right"

    def __len__(self) -> int:
        return len(self.rows)

    def put(self, **streams: torch.Tensor) -> Batch:
        """A new batch with these streams added or replaced; this one stays as it is."""
        for name, value in streams.items():
            if self.ids.shape != value.shape[:2] and self.group.shape != value.shape:
                raise ValueError(
                    f"stream {name!r} has shape {tuple(value.shape)}; allowed are [B, T] = "
                    f"{tuple(self.ids.shape)}, [B, T, K] and [B] = {tuple(self.group.shape)}"
                )
        return replace(self, streams={**self.streams, **streams})

    def take(self, name: str) -> torch.Tensor:
        """The stream of that name; a missing one is a `ValueError` that lists those present."""
        if name not in self.streams:
            raise ValueError(
                f"the batch has no stream {name!r}; present: {sorted(self.streams) or 'none'}"
                + nearest(name, self.streams)
            )
        return self.streams[name]

    def select(self, index: Sequence[int]) -> Batch:
        """The rows of these numbers, without the columns that none of them uses."""
        chosen = torch.as_tensor(index, dtype=torch.long, device=self.ids.device)
        width = int(self.real[chosen].any(0).nonzero().max()) + 1 if len(chosen) else 0

        def cut(value: torch.Tensor) -> torch.Tensor:
            return value[chosen][:, :width] if value.dim() > 1 else value[chosen]

        return replace(
            self,
            ids=cut(self.ids),
            real=cut(self.real),
            own=cut(self.own),
            group=self.group[chosen],
            rows=tuple(self.rows[i] for i in chosen.tolist()),
            streams={name: cut(value) for name, value in self.streams.items()},
        )

    def split(self, rows: int, unit: Unit = "row") -> list[Batch]:
        """Pieces of at most `rows` rows that together are the batch.

        Streams are cut, never recomputed, so a sum over pieces is the sum over the batch.
        With `unit="group"` a group stays in one piece; a group larger than `rows` is an error.
        """
        if rows < 1:
            raise ValueError(f"pieces of {rows} rows were asked; at least 1 is needed")
        if unit == "row":
            order = list(range(len(self)))
            return [self.select(order[i : i + rows]) for i in range(0, len(order), rows)]
        members: dict[int, list[int]] = {}
        for row, group in enumerate(self.group.tolist()):
            members.setdefault(group, []).append(row)
        largest = max(map(len, members.values()))
        if largest > rows:
            raise ValueError(
                f"a group of {largest} rows cannot be split, and pieces hold {rows} rows: "
                f"allow at least {largest} rows in a piece"
            )
        pieces: list[list[int]] = [[]]
        for group_rows in members.values():
            if len(pieces[-1]) + len(group_rows) > rows:
                pieces.append([])
            pieces[-1] += group_rows
        return [self.select(piece) for piece in pieces]

    def to(self, device: torch.device | str) -> Batch:
        return replace(
            self,
            ids=self.ids.to(device),
            real=self.real.to(device),
            own=self.own.to(device),
            group=self.group.to(device),
            streams={name: value.to(device) for name, value in self.streams.items()},
        )


def batch_of(
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    task: Task,
    *,
    group: Sequence[int] | None = None,
    temperature: float = 1.0,
    tokens: Mapping[str, Sequence[Sequence[float]]] | None = None,
    words: Mapping[str, Sequence[Sequence[Sequence[int]]]] | None = None,
    values: Mapping[str, Sequence[float]] | None = None,
    own: Sequence[Sequence[bool]] | None = None,
) -> Batch:
    """A batch of prompts, each followed by a completion.

    Args:
        group: the group of each row; every row its own group by default.
        tokens: [B, T] streams, given as one value for each completion token.
        words: [B, T, K] streams, given as a list of words for each completion token; they are
            filled up with -1.
        values: [B] streams.
        own: which tokens of the completions the policy chose; all by default.
    """
    lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
    shape = (len(lengths), max(lengths, default=0))
    ids = torch.zeros(shape, dtype=torch.long)
    real, chosen = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    streams = {name: torch.zeros(shape) for name in tokens or {}}
    for name, lists in (words or {}).items():
        most = max((len(each) for row in lists for each in row), default=0)
        streams[name] = torch.full((*shape, most), -1)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        ids[row, : lengths[row]] = torch.tensor([*prompt, *completion], dtype=torch.long)
        real[row, : lengths[row]] = True
        here = slice(len(prompt), lengths[row])
        chosen[row, here] = True if own is None else torch.as_tensor(own[row], dtype=torch.bool)
        for name, rows in (tokens or {}).items():
            streams[name][row, here] = torch.as_tensor(rows[row])
        for name, lists in (words or {}).items():
            for place, listed in enumerate(lists[row], len(prompt)):
                streams[name][row, place, : len(listed)] = torch.tensor(listed)
    for name, column in (values or {}).items():
        streams[name] = torch.as_tensor(column, dtype=torch.float32)
    numbers = list(range(len(lengths))) if group is None else list(group)
    number = torch.tensor(numbers, dtype=torch.long)  # also where there is no row
    return Batch(ids, real, chosen, number, tuple(problems), task, temperature, streams)


def join(batches: Sequence[Batch]) -> Batch:
    """The rows of several batches of one task one after the other; groups stay apart.

    All must carry the same streams and temperature.
    """
    first = batches[0]
    assert all(b.streams.keys() == first.streams.keys() for b in batches)
    assert all(b.temperature == first.temperature for b in batches)
    width = max(b.ids.shape[1] for b in batches)

    def stack(values: Sequence[torch.Tensor]) -> torch.Tensor:
        if values[0].dim() == 1:
            return torch.cat(list(values))
        if values[0].dim() == 2:
            return torch.cat([pad(v, (0, width - v.shape[1])) for v in values])
        most = max(v.shape[2] for v in values)
        sides = [(0, most - v.shape[2], 0, width - v.shape[1]) for v in values]
        return torch.cat([pad(v, side, value=-1) for v, side in zip(values, sides, strict=True)])

    numbers, offset = [], 0
    for batch in batches:
        numbers.append(batch.group + offset)
        offset = int(numbers[-1].max()) + 1 if len(batch) else offset
    return replace(
        first,
        ids=stack([b.ids for b in batches]),
        real=stack([b.real for b in batches]),
        own=stack([b.own for b in batches]),
        group=torch.cat(numbers),
        rows=tuple(row for b in batches for row in b.rows),
        streams={name: stack([b.streams[name] for b in batches]) for name in first.streams},
    )
