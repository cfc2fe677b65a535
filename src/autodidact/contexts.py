"""Contexts: what a privileged teacher reads that the student does not.

A context is told in a credit step, on the whole batch, where a row may look at its group; the text
then travels with the row's problem, so that views of a piece of the batch find it.

Shapes: B rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch

from autodidact.batch import Batch
from autodidact.grade import grade, texts
from autodidact.names import choose
from autodidact.problem import Message, Problem, Task

if TYPE_CHECKING:
    from autodidact.models import Models

Kind = Literal[
    "solution", "answer", "demonstration", "feedback", "sibling", "other", "wrong", "system", "none"
]
TOLD = "_told"
"""The key of `Problem.meta` under which the text travels."""

TEMPLATES = {
    "answer": "{question}\n\nThe correct final answer is: {text}\n\n"
    "Solve the problem yourself, step by step, so that it leads there.",
    "demonstration": "Here is an example of how such a task is answered:\n{text}\n\n"
    "Now answer this one in your own way:\n{question}",
    "feedback": "{question}\n\nAn earlier attempt, and what became of it:\n{text}\n\n"
    "Solve the problem correctly.",
    "sibling": "{question}\n\nHere is a correct solution:\n{text}\n\n"
    "Now solve the problem yourself, step by step.",
    "other": "Here is another problem with its solution:\n{text}\n\n"
    "Now solve this problem, step by step:\n{question}",
}
"""How a text is put to a model that follows instructions; a task may do so in words of its own."""


@dataclass(frozen=True)
class Context:
    """What the teacher is told.

    solution       the solution of the problem, in the task's words (OPSD, 2601.18734)
    answer         its final answer only
    demonstration  the column `demonstration` of the problem, else another problem of the training
                   split with its solution, as an example (SDFT, 2601.19897)
    feedback       the student's own attempt and what the task says about it (SDPO, 2601.20802)
    sibling        another completion of the group that earned at least `least` (SDPO)
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

    kind: Kind = "solution"
    text: str | None = None
    least: float = 0.5

    def __post_init__(self):
        choose("context", self.kind, get_args(Kind))
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
            "other": ("solution",), "wrong": ("solution",),
        }.get(self.kind, ())  # fmt: skip

    def tell(self, batch: Batch, models: Models) -> Batch:
        """The batch with the text of each row, and the stream `told` [B]: 1 where there is one.

        Rows without one (no sibling that succeeded, no feedback) keep the student's prompt; what
        a teacher says about them is to be weighed by `told`.
        """
        if self.kind in ("feedback", "sibling") and "reward" not in batch.streams:
            batch = grade(batch, models)
        found = self._texts(batch, models)
        rows = tuple(
            replace(problem, meta={**problem.meta, TOLD: text})
            for problem, text in zip(batch.rows, found, strict=True)
        )
        told = [float(text is not None) for text in found]
        return replace(batch, rows=rows).put(told=torch.tensor(told, device=batch.ids.device))

    def prompts(self, batch: Batch) -> list[list[Message]]:
        """What the teacher reads before each completion; a row that was not told yet stands for
        itself alone, as when a run is checked before anything is drawn."""
        return [
            self._prompt(batch.task, problem, problem.meta[TOLD])
            if TOLD in problem.meta
            else self._prompt(batch.task, problem, self._alone(batch.task, problem))
            for problem in batch.rows
        ]

    def _prompt(self, task: Task, problem: Problem, text: str | None) -> list[Message]:
        if text is None or self.kind == "none":
            return task.prompt(problem)
        if self.kind in ("solution", "wrong"):
            return task.privileged(replace(problem, solution=text))
        if task.told is not None:
            return task.told(problem, self.kind, text)
        *before, last = task.prompt(problem)
        if self.kind == "system":
            return [{"role": "system", "content": text}, *before, last]
        content = TEMPLATES[self.kind].format(question=last["content"], text=text)
        return [*before, {**last, "content": content}]

    def _texts(self, batch: Batch, models: Models) -> list[str | None]:
        if self.kind == "feedback":
            return _feedback(batch, texts(batch, models))
        if self.kind == "sibling":
            return self._siblings(batch, texts(batch, models))
        return [self._alone(batch.task, problem) for problem in batch.rows]

    def _alone(self, task: Task, problem: Problem) -> str | None:
        """What can be told of a problem without its completions."""
        known: dict[str, Callable[[], str | None]] = {
            "solution": lambda: problem.solution,
            "answer": lambda: problem.answer,
            "demonstration": lambda: problem.meta.get("demonstration") or _shown(task, problem),
            "other": lambda: _shown(task, problem),
            "wrong": lambda: _donor(task, problem, wrong=True).solution,
            "system": lambda: self.text,
            "none": lambda: "",
        }
        return known.get(self.kind, lambda: problem.solution)()

    def _siblings(self, batch: Batch, written: Sequence[str]) -> list[str | None]:
        groups, rewards = batch.group.tolist(), batch.take("reward").tolist()
        found: list[str | None] = []
        for row, group in enumerate(groups):
            others = (i for i, g in enumerate(groups) if g == group and i != row)
            good = next((i for i in others if rewards[i] >= self.least), None)
            found.append(None if good is None else written[good])
        return found


def _feedback(batch: Batch, written: Sequence[str]) -> list[str | None]:
    """The attempt and what the task says, or else how it was graded."""
    found: list[str | None] = []
    for problem, text, reward in zip(
        batch.rows, written, batch.take("reward").tolist(), strict=True
    ):
        if batch.task.feedback is not None:
            said = batch.task.feedback(problem, text)
        else:
            said = None if reward != reward else f"It earned {reward:g}."
        found.append(None if said is None else f"{text}\n{said}")
    return found


def _shown(task: Task, problem: Problem) -> str:
    other = _donor(task, problem, wrong=False)
    return f"{other.question}\n{other.solution}"


def _donor(task: Task, problem: Problem, wrong: bool) -> Problem:
    """Another problem of the training split with a solution, the same one every time.

    `ValueError` where there is none. With `wrong` its answer is another one too.
    """
    digest = hashlib.blake2b(problem.question.encode(), digest_size=8).digest()
    start = int.from_bytes(digest, "big") % max(1, len(task.train))
    for other in [*task.train[start:], *task.train[:start]]:
        differs = other.question != problem.question and other.solution is not None
        if differs and not (wrong and other.answer == problem.answer):
            return other
    raise ValueError(
        f"the task {task.name!r} has no other training problem with a solution"
        + (" and another answer" if wrong else "")
        + f" to show for {problem.place}"
    )
