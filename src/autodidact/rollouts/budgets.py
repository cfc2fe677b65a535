"""Thinking that is cut at several budgets, with an answer forced at each cut.

Shapes: B rows, T columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool

from autodidact.batch import Batch
from autodidact.credits.group import group_mean
from autodidact.credits.spans import tokens_until
from autodidact.grade import grade
from autodidact.law import Law
from autodidact.method import Rollout
from autodidact.model import LM
from autodidact.models import Models
from autodidact.names import at_least_one
from autodidact.problem import Problem, Task
from autodidact.rollouts.paths import Path, batch_of_paths, begin, given_ids, go_on

APART = 2**42
"""Added to the seed for summaries: a draw of theirs is not one that the trace made elsewhere."""


@dataclass(frozen=True)
class Budgets(Rollout):
    """`traces` lines of thought for each problem, and `summaries` answers at each cut of each.

    A trace is one row, in which the thinking is own. Each summary is a further row: the thinking
    up to the cut and the text `after`, both given, then own tokens of the policy. Where a trace
    ends by itself, its end and what it wrote from `stop` on are not part of what summaries read,
    and its later cuts are its last one: they have no rows of their own.

    Streams: those of `Sample`; `trace` [B], the number of the trace within its problem; `cut` [B],
    the number of the cut of a summary, -1 for a trace; `budget` [B, T], 1 + the number of the cut
    before which a token was thought, 0 elsewhere. `reward` and `correct` [B] grade a summary with
    all that precedes it; for a trace they are the mean over its summaries. All rows of a problem
    form one group.

    Source: AnytimeReasoner, arXiv 2505.13438.

    Attributes:
        budgets: tokens of thinking at each cut, increasing.
        after: text that asks for the answer.
        length_summary: at most so many tokens of a summary.
        stop: text with which thinking ends by itself, beside an end token; "" for none.
        n: rows of a problem, if no trace ends early.

    Raises:
        ValueError: budgets that do not increase from 1 on, or no `after`; and when drawing, rows
            that do not fit the context.
    """

    traces: int = 8
    budgets: tuple[int, ...] = (2048, 4096, 6144, 8192)
    summaries: int = 4
    length_summary: int = 128
    after: str = "\n</think>\n\n"
    stop: str = "</think>"
    law: Law = field(default_factory=Law)
    n: int = field(init=False)

    def __post_init__(self):
        at_least_one(
            traces=self.traces, summaries=self.summaries, length_summary=self.length_summary
        )
        whole = (0, *self.budgets)
        if not self.budgets or list(whole) != sorted(set(whole)):
            raise ValueError(
                f"budgets={self.budgets} are not allowed: give at least one number, increasing, "
                "from 1 on"
            )
        if not self.after:
            raise ValueError("after='' is not allowed: some text must ask for the answer")
        object.__setattr__(self, "n", self.traces * (1 + len(self.budgets) * self.summaries))

    @property
    def length(self) -> int:
        """A number of tokens that no row has after its prompt."""
        return self.budgets[-1] + len(self.after.encode()) + self.length_summary

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        lm = models.policy
        traces = begin(problems, models, task, self.traces)
        traces = self._thought(lm, models, traces, seed)
        forced, places = [], []
        for index, trace in enumerate(traces):
            for cut, size in enumerate(self._cuts(lm, trace)):
                forced += self._asked(lm, trace, cut, size)
                places += [(index, cut)] * self.summaries
        lengths, none = [self.length_summary] * len(forced), [0] * len(forced)
        forced = go_on(models, forced, lengths, self.law, seed + APART, none)
        rows = [(index, -1) for index in range(len(traces))] + places
        batch = batch_of_paths([*traces, *forced], task, self.law, "budget")
        batch = batch.put(
            trace=torch.tensor([index % self.traces for index, _ in rows]),
            cut=torch.tensor([cut for _, cut in rows]),
        )
        return _ordered(_graded(batch, models), [index for index, _ in rows])

    def _thought(self, lm: LM, models: Models, traces: list[Path], seed: int) -> list[Path]:
        """Each trace up to the last budget or its end, each token with the number of its budget."""
        for number, budget in enumerate(self.budgets, 1):
            sizes = [
                0 if path.finished or self._stopped(lm, path) else budget - len(path)
                for path in traces
            ]
            traces = go_on(models, traces, sizes, self.law, seed, [number] * len(traces))
            traces = [
                path.cut(until) if (until := self._stopped(lm, path)) else path for path in traces
            ]
        return traces

    def _stopped(self, lm: LM, path: Path) -> int:
        """The number of tokens by which the trace has said that it ends; 0 if it has not."""
        place = lm.decode(path.written.ids).find(self.stop) if self.stop else -1
        if place < 0:
            return 0
        return tokens_until(lm, path.written.ids, [place + len(self.stop)])[0]

    def _cuts(self, lm: LM, path: Path) -> list[int]:
        """How much thinking is read at each cut, the last one where the trace ends."""
        reached = 1 + sum(budget < len(path) for budget in self.budgets)
        size = len(path) - path.finished
        if self._stopped(lm, path):
            place = lm.decode(path.written.ids).find(self.stop)
            size = tokens_until(lm, path.written.ids, [place])[0]
        return [min(budget, size) for budget in self.budgets[:reached]]

    def _asked(self, lm: LM, trace: Path, cut: int, size: int) -> list[Path]:
        """The paths on which the summaries of one cut are drawn."""
        read = trace.cut(size)
        read = replace(read, own=(False,) * size, notes=(0,) * size)
        read = read.given(given_ids(lm, self.after))
        first = (trace.sample * len(self.budgets) + cut) * self.summaries
        return [replace(read, sample=first + k) for k in range(self.summaries)]


def thinking(batch: Batch) -> Bool[torch.Tensor, "B"]:
    """Which rows are traces."""
    return batch.take("cut") < 0


def _graded(batch: Batch, models: Models) -> Batch:
    """The batch with the rewards of summaries, and of traces their mean."""
    summary = (~thinking(batch)).nonzero().flatten().tolist()
    asked = batch.select(summary)
    columns = torch.arange(asked.ids.shape[1])
    starts = torch.tensor([len(models.policy.render(batch.task.prompt(p))) for p in asked.rows])
    # Graded is all that follows the prompt: where the answer stands is the verifier's business.
    found = grade(replace(asked, own=asked.real & (columns >= starts[:, None])), models)
    _, key = torch.stack([batch.group, batch.take("trace")]).unique(dim=1, return_inverse=True)
    streams = {}
    for name in ("reward", "correct"):
        value = torch.full((len(batch),), torch.nan)
        value[summary] = found.take(name)
        if not value.isnan().all():
            value = torch.where(thinking(batch), group_mean(value, key), value)
        streams[name] = value
    return batch.put(**streams)


def _ordered(batch: Batch, traces: Sequence[int]) -> Batch:
    """The rows of each trace together, the trace itself first."""
    return batch.select(sorted(range(len(batch)), key=lambda row: traces[row]))
