"""Rollouts in which something answers the policy: a tool, a user, an environment."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from autodidact.batch import Batch
from autodidact.law import Law
from autodidact.method import Rollout
from autodidact.model import LM
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

Tool = Callable[[Problem, Sequence[str]], str | None]
"""(problem, the texts of all turns and answers so far) -> the answer; `None` to end the row. The
last text is the turn that asks."""


@dataclass(frozen=True)
class Turns(Rollout):
    """Completions in turns: the policy writes, `tool` answers, and the policy goes on.

    A turn is over at an end token, which stays, or at the token that completes the first of the
    stop strings. What was drawn beyond that token is dropped: it is counted as generated, in
    vain, and changes no law, as the cut depends on nothing after it. The answer follows as it
    is, as tokens that are not `own`; markup of a chat, such as the beginning of the next turn, is
    part of it, and text that names special tokens becomes these.

    A row ends where the tool answers `None` (then it counts as finished), where a turn runs out
    of its length, after the last turn, whose tool is not asked, and, unfinished, before an answer
    that leaves no room in the context. The next turn gets the room that is left.

    Streams: those of `Sample`, with `logp` and `raw` 0 at answers, and `turn` [B, T], the number
    of the turn that a token belongs to, or answers; 0 at prompts.

    Source: answers as tokens that are not trained, as in Search-R1, arXiv 2503.09516.

    Attributes:
        turns: at most this many turns of the policy.
        length: at most this many tokens each.
        stop: strings of plain text, sought in the text of each turn.

    Raises:
        ValueError: an empty stop string, or a prompt and a first turn that do not fit the context.
        Exception: whatever the tool raises, with a note that names the problem.
    """

    tool: Tool
    n: int = 1
    turns: int = 4
    length: int = 256
    stop: tuple[str, ...] = ()
    law: Law = field(default_factory=Law)

    def __post_init__(self):
        at_least_one(n=self.n, turns=self.turns, length=self.length)
        if isinstance(self.stop, str) or not all(self.stop):
            raise ValueError(
                f"stop={self.stop!r} is not allowed: give a tuple of strings, each not empty"
            )

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        paths = begin(problems, models, task, self.n)
        lengths = [self.length] * len(paths)
        for turn in range(1, self.turns + 1):
            starts, numbers = [len(path) for path in paths], [turn] * len(paths)
            paths = go_on(models, paths, lengths, self.law, seed, numbers)
            for i, start in enumerate(starts):
                if lengths[i]:
                    paths[i], over = self._cut(models.policy, paths[i], start)
                    lengths[i] = 0
                    if over and turn < self.turns:
                        paths[i], lengths[i] = self._answered(models.policy, paths[i], turn)
        return batch_of_paths(paths, task, self.law, "turn")

    def _cut(self, lm: LM, path: Path, start: int) -> tuple[Path, bool]:
        """The path up to the first stop string after `start`, and whether its turn is over."""
        ids = path.written.ids[start:]

        def stopped(size: int) -> bool:
            text = lm.decode(ids[:size])
            return any(each in text for each in self.stop)

        if not stopped(len(ids)):
            return path, path.finished
        size = bisect_left(range(len(ids)), True, key=stopped)
        return path.cut(start + size), True

    def _answered(self, lm: LM, path: Path, turn: int) -> tuple[Path, int]:
        """The path with the answer to a turn, and how many tokens the next one may have."""
        try:
            answer = self.tool(path.problem, _said(lm, path))
        except Exception as error:
            error.add_note(f"raised by the tool, at the problem {path.problem.place}")
            raise
        if answer is None:
            return path.closed(True), 0
        ids = given_ids(lm, answer)
        room = lm.context - len(path.prompt) - len(path) - len(ids)
        if room < 1:
            return path.closed(False), 0
        return path.given(ids, turn), min(self.length, room)


def _said(lm: LM, path: Path) -> list[str]:
    """What was written after the prompt, turn by turn, answers between them."""
    tokens = zip(path.notes, path.own, path.written.ids, strict=True)
    runs = groupby(tokens, key=lambda token: token[:2])
    return [lm.decode([word for _, _, word in run]) for _, run in runs]
