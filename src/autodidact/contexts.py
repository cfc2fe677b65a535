"""Contexts: what a privileged teacher reads that the student does not.

A context is told in a credit step, on the whole batch, where a row may look at its group; the text
then travels with the row's problem, so that views of a piece of the batch find it.

Shapes: B rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch

from autodidact.batch import Batch
from autodidact.grade import grade, texts
from autodidact.names import choose
from autodidact.problem import Message, Problem, Task

if TYPE_CHECKING:
    from autodidact.models import Models

ContextKind = Literal[
    "solution", "answer", "demonstration", "feedback", "sibling", "sibling_and_feedback", "other",
    "wrong", "system", "none",
]  # fmt: skip
Told = tuple[str, str]
"""The kind of what a row is told, and the text."""
TOLD = "_told"
"""The key of `Problem.meta` under which a `Told` travels, `None` for a row without one."""

TEMPLATES = {
    "answer": "{question}\n\nThe correct final answer is: {text}\n\n"
    "Solve the problem yourself, step by step, so that it leads there.",
    "demonstration": "{question}\n\nThis is how one may answer:\n{text}\n\n"
    "Now answer in words of your own.",
    "feedback": "{question}\n\nOf an earlier attempt of yours this was said:\n{text}\n\n"
    "Now solve the problem correctly.",
    "sibling": "{question}\n\nHere is a correct solution:\n{text}\n\n"
    "Now solve the problem yourself, step by step.",
    "other": "Here is another problem with its solution:\n{text}\n\n"
    "Now solve this problem, step by step:\n{question}",
}
"""How a text is put to a model that follows instructions; a task may do so in words of its own."""

LOOKING_BACK = ("feedback", "sibling", "sibling_and_feedback")
"""Kinds that are told of completions and their rewards."""


@dataclass(frozen=True)
class Context:
    """What the teacher is told.

    solution       the solution of the problem, in the task's words (OPSD, 2601.18734)
    answer         its final answer only
    demonstration  the column `demonstration` of the problem, else its solution, said to be one
                   way to answer (SDFT, 2601.19897)
    feedback       what the task says about the student's attempt (SDPO, 2601.20802), else what it
                   earned; not the attempt, which draws a teacher towards what was written
    sibling        another completion of the group that earned at least `least` (SDPO), and reads
                   differently: the same one for all, whatever the order of the rows
    sibling_and_feedback   that and, after an attempt that failed, what the task says about it, or
                   whichever of the two there is (SDPO)
    other          another problem with its solution, said to be another one (OP2SD, 2608.09228)
    wrong          the solution of another problem, with another answer, as if it was this one's
    system         `text` as a system message: a persona, a style, a reminder
    none           nothing: the teacher reads what the student reads

    Attributes:
        text: of "system".
        least: reward from which on a sibling counts as a success.

    Raises:
        ValueError: an unknown kind, "system" without a text, or a text for another kind.
    """

    kind: ContextKind = "solution"
    text: str | None = None
    least: float = 0.5

    def __post_init__(self):
        choose("context", self.kind, get_args(ContextKind))
        if (self.kind == "system") != (self.text is not None):
            raise ValueError(
                f"context {self.kind!r} with text={self.text!r}: a text belongs to 'system', which "
                "needs one"
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields that every problem must have."""
        return {
            "solution": ("solution",), "answer": ("answer",), "sibling": ("answer",),
            "sibling_and_feedback": ("answer",), "other": ("solution",), "wrong": ("solution",),
        }.get(self.kind, ())  # fmt: skip

    def tell(self, batch: Batch, models: Models) -> Batch:
        """The batch with the text of each row, and the stream `told` [B]: 1 where there is one.

        Rows without one (no sibling that succeeded, no feedback) keep the student's prompt; what
        a teacher says about them is to be weighed by `told`.
        """
        if self.kind in LOOKING_BACK and "reward" not in batch.streams:
            batch = grade(batch, models)
        found = self._texts(batch, models)
        rows = tuple(
            replace(problem, meta={**problem.meta, TOLD: each})
            for problem, each in zip(batch.rows, found, strict=True)
        )
        told = [float(each is not None) for each in found]
        return replace(batch, rows=rows).put(told=torch.tensor(told, device=batch.ids.device))

    def prompts(self, batch: Batch) -> list[list[Message]]:
        """What the teacher reads before each completion; a row that was not told yet stands for
        itself alone, as when a run is checked before anything is drawn."""
        return [self._prompt(batch.task, problem) for problem in batch.rows]

    def _prompt(self, task: Task, problem: Problem) -> list[Message]:
        meta = problem.meta
        told = meta[TOLD] if TOLD in meta else self._alone(task, problem)
        if told is None or self.kind == "none":
            return task.prompt(problem)
        kind, text = told
        if kind in ("solution", "wrong"):
            return task.privileged(replace(problem, solution=text))
        if task.told is not None:
            return task.told(problem, kind, text)
        *before, last = task.prompt(problem)
        if kind == "system":
            return _headed(text, [*before, last])
        content = TEMPLATES[kind].format(question=last["content"], text=text)
        return [*before, {**last, "content": content}]

    def _texts(self, batch: Batch, models: Models) -> list[Told | None]:
        if self.kind not in LOOKING_BACK:
            return [self._alone(batch.task, problem) for problem in batch.rows]
        written = texts(batch, models)
        if self.kind == "feedback":
            return [_as("feedback", said) for said in _feedback(batch, written)]
        good = self._siblings(batch, written)
        if self.kind == "sibling":
            return [_as("sibling", text) for text in good]
        return [_both(*pair) for pair in zip(good, self._failures(batch, written), strict=True)]

    def _alone(self, task: Task, problem: Problem) -> Told | None:
        """What can be told of a problem without its completions; the solution stands for those."""
        if self.kind == "other":
            other = _donor(task, problem, wrong=False)
            return self.kind, f"{other.question}\n{other.solution}"
        if self.kind == "wrong":
            return _as(self.kind, _donor(task, problem, wrong=True).solution)
        if self.kind == "demonstration":
            return self.kind, _demonstration(problem)
        if self.kind in LOOKING_BACK:
            return _as("feedback" if self.kind == "feedback" else "sibling", problem.solution)
        known = {"solution": problem.solution, "answer": problem.answer, "system": self.text}
        return _as(self.kind, known.get(self.kind, ""))

    def _siblings(self, batch: Batch, written: Sequence[str]) -> list[str | None]:
        """Of each row the success of its group whose text has the least digest, if any."""
        groups = batch.group.tolist()
        good: dict[int, set[str]] = {}
        for group, success, text in zip(groups, self._successes(batch), written, strict=True):
            good.setdefault(group, set()).update([text] if success else [])
        return [
            min(good[group] - {text}, key=_digest, default=None)
            for group, text in zip(groups, written, strict=True)
        ]

    def _failures(self, batch: Batch, written: Sequence[str]) -> list[str | None]:
        """What the task says about each attempt that was no success."""
        say = batch.task.feedback
        rows = zip(batch.rows, written, self._successes(batch), strict=True)
        return [None if say is None or good else say(problem, text) for problem, text, good in rows]

    def _successes(self, batch: Batch) -> list[bool]:
        # Compared as tensors: a reward of 0.7 is less than 0.7 once it leaves float32.
        return (batch.take("reward") >= self.least).tolist()


def _as(kind: str, text: str | None) -> Told | None:
    return None if text is None else (kind, text)


def _both(sibling: str | None, said: str | None) -> Told | None:
    if sibling is None or said is None:
        return _as("sibling", sibling) or _as("feedback", said)
    return "sibling", f"{sibling}\n\nOf an earlier attempt of yours this was said:\n{said}"


def _headed(text: str, messages: list[Message]) -> list[Message]:
    """The messages under a system message; many chat templates allow one only."""
    first, *others = messages
    if first["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    return [{**first, "content": f"{text}\n\n{first['content']}"}, *others]


def _feedback(batch: Batch, written: Sequence[str]) -> list[str | None]:
    """What the task says about each attempt, or else how it was graded."""
    if (say := batch.task.feedback) is not None:
        return [say(problem, text) for problem, text in zip(batch.rows, written, strict=True)]
    rewards = batch.take("reward").tolist()
    return [None if math.isnan(reward) else f"It earned {reward:g}." for reward in rewards]


def _demonstration(problem: Problem) -> str:
    text = problem.meta.get("demonstration") or problem.solution
    if text is None:
        raise ValueError(
            f"the problem {problem.place} has neither a column 'demonstration' nor a solution, "
            "one of which context 'demonstration' shows"
        )
    return text


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _donor(task: Task, problem: Problem, wrong: bool) -> Problem:
    """Another problem of the training split with a solution, the same one every time.

    `ValueError` where there is none. With `wrong` its answer is another one too.
    """
    count = len(task.train)
    start = _digest(problem.question) % max(1, count)
    for place in range(start, start + count):
        other = task.train[place % count]
        differs = other.question != problem.question and other.solution is not None
        if differs and not (wrong and _same_end(other, problem)):
            return other
    raise ValueError(
        f"the task {task.name!r} has no other training problem with a solution"
        + (" and another answer" if wrong else "")
        + f" to show for {problem.place}"
    )


def _same_end(one: Problem, other: Problem) -> bool:
    """Whether two problems have the same answer, or where none is known the same solution."""
    if one.answer is None or other.answer is None:
        return one.solution == other.solution
    return one.answer == other.answer
