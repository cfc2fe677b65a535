"""Rollouts that put words into the policy's mouth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from autodidact.batch import Batch
from autodidact.law import Law
from autodidact.method import Rollout
from autodidact.models import Models
from autodidact.names import at_least_one
from autodidact.problem import Problem, Task
from autodidact.rollouts.paths import (
    Path,
    batch_of_paths,
    begin,
    given_ids,
    go_on,
)


@dataclass(frozen=True)
class Splice(Rollout):
    """Completions that are made to go on: given text, then further tokens of the policy.

    The policy writes until it ends or has written `after` tokens; the text follows, and the
    policy writes at most `more` tokens, `times` over. An end token before the text is dropped,
    though counted as generated. Of the given tokens the policy chose none: they are not `own`,
    and its own tokens after them follow its law given all before. A completion that is nothing
    but an end token has nothing to go on from, and stays as it is.

    Streams: those of `Sample`; `logp` and `raw` are 0 at the given tokens.

    Source: budget forcing of s1, arXiv 2501.19393 ("Wait" to think on, "Final Answer:" to stop).

    Attributes:
        text: what is given.

    Raises:
        ValueError: empty text, or a row that does not fit the context of the model.
    """

    n: int = 1
    after: int = 512
    text: str = "\nWait,"
    more: int = 512
    times: int = 1
    law: Law = field(default_factory=Law)

    def __post_init__(self):
        at_least_one(n=self.n, after=self.after, more=self.more, times=self.times)
        if not self.text:
            raise ValueError("text='' is not allowed: there must be something to splice in")

    @property
    def length(self) -> int:
        """A number of tokens that no completion exceeds: a token is at least one byte of text."""
        return self.after + self.times * (len(self.text.encode()) + self.more)

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        ids = given_ids(models.policy, self.text)
        paths = begin(problems, models, task, self.n)
        none = [0] * len(paths)
        paths = go_on(models, paths, [self.after] * len(paths), self.law, seed, none)
        for _ in range(self.times):
            spoken = [len(_without_end(path)) for path in paths]
            paths = [
                _without_end(path).given(ids) if size else path
                for path, size in zip(paths, spoken, strict=True)
            ]
            lengths = [self.more if size else 0 for size in spoken]
            paths = go_on(models, paths, lengths, self.law, seed, none)
        return batch_of_paths(paths, task, self.law)


def _without_end(path: Path) -> Path:
    return path.cut(len(path) - 1) if path.finished else path
