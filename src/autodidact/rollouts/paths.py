"""Rows that are written piece by piece: forks, forced tokens, pauses, tools.

Shapes: B rows, T columns. A path is immutable, so that siblings may share what precedes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from autodidact.batch import Batch
from autodidact.engine import Request
from autodidact.law import Law
from autodidact.model import LM
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.rollouts.sample import answer, sample_numbers, sampled_batch
from autodidact.store import Completion

BLANK = Completion([], [], [], False, [])


@dataclass(frozen=True)
class Path:
    """One row as far as it is written.

    Attributes:
        group: the number of its group.
        sample: with the prompt and the seed it names the draws, see `Request`.
        written: everything after the prompt; `logp` and `raw` are 0 at tokens that were given.
        own: for each token written, whether the policy chose it.
        notes: one number for each token written; the rollout says what it means.
    """

    problem: Problem
    group: int
    prompt: tuple[int, ...]
    sample: int
    written: Completion = BLANK
    own: tuple[bool, ...] = ()
    notes: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Tokens written."""
        return len(self.own)

    @property
    def finished(self) -> bool:
        return self.written.finished

    def asking(self, length: int) -> Request:
        """What asks for at most so many further tokens."""
        return Request(self.prompt, self.sample, length, tuple(self.written.ids))

    def drew(self, more: Completion, note: int) -> Path:
        """With tokens that the policy chose."""
        return self._with(more, True, note)

    def given(self, ids: Sequence[int], note: int = 0) -> Path:
        """With tokens that it did not choose."""
        none = [0.0] * len(ids)
        return self._with(Completion(list(ids), none, none, False, [[] for _ in ids]), False, note)

    def _with(self, more: Completion, own: bool, note: int) -> Path:
        size = len(more.ids)
        return replace(
            self,
            written=self.written.followed(more),
            own=self.own + (own,) * size,
            notes=self.notes + (note,) * size,
        )

    def cut(self, size: int) -> Path:
        """The first `size` tokens, which are not finished."""
        old = self.written
        support = None if old.support is None else old.support[:size]
        written = Completion(old.ids[:size], old.logp[:size], old.raw[:size], False, support)
        return replace(self, written=written, own=self.own[:size], notes=self.notes[:size])

    def closed(self, finished: bool) -> Path:
        """The same tokens, finished or not."""
        return replace(self, written=replace(self.written, finished=finished))


def begin(problems: Sequence[Problem], models: Models, task: Task, n: int) -> list[Path]:
    """n empty paths for each problem, whose draws are those of `Sample`."""
    prompts = [tuple(models.policy.render(task.prompt(problem))) for problem in problems]
    named = zip(problems, prompts, sample_numbers(prompts, n), strict=True)
    return [
        Path(problem, group, prompt, number)
        for group, (problem, prompt, numbers) in enumerate(named)
        for number in numbers
    ]


def go_on(
    models: Models,
    paths: Sequence[Path],
    lengths: Sequence[int],
    law: Law,
    seed: int,
    notes: Sequence[int],
) -> list[Path]:
    """Each path with at most so many further tokens of the policy; where 0 are asked, as it is."""
    asked = [path.asking(size) for path, size in zip(paths, lengths, strict=True) if size]
    found = iter(answer(models, asked, law, seed))
    return [
        path.drew(next(found), note) if size else path
        for path, size, note in zip(paths, lengths, notes, strict=True)
    ]


def batch_of_paths(paths: Sequence[Path], task: Task, law: Law, note: str | None = None) -> Batch:
    """The rows as a batch, with the streams of `Sample`.

    Args:
        note: the name of the stream [B, T] that the notes become; 0 at prompts.
    """
    batch = sampled_batch(
        [path.problem for path in paths],
        [path.prompt for path in paths],
        [[path.written] for path in paths],
        task,
        law,
        own=[path.own for path in paths],
        tokens={note: [path.notes for path in paths]} if note else None,
    )
    batch = replace(batch, group=torch.tensor([path.group for path in paths], dtype=torch.long))
    return batch.put(**{note: batch.take(note).long()}) if note else batch


def given_ids(lm: LM, text: str) -> list[int]:
    """Text as tokens of a row, without an end token of their own."""
    return lm.encode(text)[:-1]
