"""Completions whose end is given: the policy's reasoning, then the reference answer.

Shapes: B rows, T columns. Everything given is appended as ids: what the policy drew is never
written down as text and cut into tokens again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from autodidact.batch import Batch
from autodidact.credits.spans import tokens_until
from autodidact.law import Law
from autodidact.method import Rollout
from autodidact.model import LM
from autodidact.models import Models
from autodidact.names import at_least_one, choose
from autodidact.problem import Problem, Task
from autodidact.rollouts.paths import Path, batch_of_paths, begin, given_ids, go_on
from autodidact.store import Completion
from autodidact.view import plain

Occurrence = Literal["first", "last"]


@dataclass(frozen=True)
class Reference(Rollout):
    """n completions of each problem up to a marker, then a bridge and the reference answer.

    z, a row's own tokens, ends with the token that completes the marker; the bridge follows,
    which the policy did not choose; then the tokens of the answer, which count as own, though
    they are given. A row counts as without a marker where there is none in it, or where the token
    that completes it says more: it stays as it was drawn, and its reward is 0.

    Streams: those of `Sample`, where `logp` and `raw` at the answer are what the policy said of
    it; `reference` [B, T], 1 at the answer's tokens; `reward` [B], the probability of the answer,
    R = exp(sum_t log p(y*_t | x, z)).

    Source: VeriFree, arXiv 2505.21493.

    Attributes:
        length: at most so many tokens of z.
        marker: text with which z ends.
        bridge: text between the marker and the answer.
        occurrence: of the marker at which z ends. "first" may stop as soon as it is written, so
            that z follows the policy's law. "last" is for text in which every line has one, such
            as "=": where z ends then depends on what came after, and a text without an end is one
            without a marker.

    Raises:
        ValueError: an empty marker, an unknown `occurrence`; and when drawing, a problem without
            an answer, or a row that does not fit the context.
    """

    n: int = 8
    length: int = 1024
    marker: str = "<answer"
    bridge: str = "> \\boxed{"
    occurrence: Occurrence = "first"

    def __post_init__(self):
        at_least_one(n=self.n, length=self.length)
        choose("occurrence", self.occurrence, get_args(Occurrence))
        if not self.marker:
            raise ValueError("marker='' is not allowed: some text must end the reasoning")

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        lm, law = models.policy, Law()
        paths = begin(problems, models, task, self.n)
        none = [0] * len(paths)
        paths = go_on(models, paths, [self.length] * len(paths), law, seed, none)
        cuts = [self._cut(lm, path) for path in paths]
        rows = [self._answered(lm, path, cut) for path, cut in zip(paths, cuts, strict=True)]
        batch = batch_of_paths(rows, task, law, "reference")
        return _scored(batch, models)

    def _cut(self, lm: LM, path: Path) -> int:
        """How many tokens z has; 0 where the row counts as without a marker."""
        ids = path.written.ids
        text = lm.decode(ids)
        if self.occurrence == "first":
            place = text.find(self.marker)
        else:
            place = text.rfind(self.marker) if path.finished else -1
        if place < 0:
            return 0
        end = place + len(self.marker)
        [size] = tokens_until(lm, ids, [end])
        return size if len(lm.decode(ids[:size])) == end else 0

    def _answered(self, lm: LM, path: Path, cut: int) -> Path:
        """The row with the answer in the place of what the policy wrote there."""
        if not cut:
            return path
        if path.problem.answer is None:
            raise ValueError(f"the problem {path.problem.place} has no answer to append")
        answer = given_ids(lm, path.problem.answer)
        # Its log-probabilities come with one reading of all rows.
        blank = Completion(answer, [0.0] * len(answer), [0.0] * len(answer), True, None)
        row = path.cut(cut).given(given_ids(lm, self.bridge)).drew(blank, 1)
        size = len(row.prompt) + len(row)
        if size > lm.context:
            raise ValueError(
                f"the problem {path.problem.place} with its answer has {size} tokens, more than "
                f"the context of {lm.context}"
            )
        return row


@torch.no_grad()
def _scored(batch: Batch, models: Models) -> Batch:
    """The batch with what the policy says of the answers, and their probabilities."""
    marked = batch.take("reference") == 1
    found = marked.any(1)
    if not found.any():
        return batch.put(reward=torch.zeros(len(batch)))
    asked = replace(batch, own=marked)
    asked = asked.to(models.policy.device)
    logp = models.score(plain(asked, grad=False), asked).logp.to(batch.ids.device)
    reward = torch.where(found, logp.sum(1).exp(), 0.0)
    told = {name: torch.where(marked, logp.float(), batch.take(name)) for name in ("logp", "raw")}
    return batch.put(reward=reward.float(), **told)
