"""Problems and tasks: what is asked, what is privileged, what can be verified.

A `Problem` is one question. Its `solution` is the privileged information a self-teacher may
read; its `answer` is what a verifier compares with. Either may be missing. A `Task` is problems
by split, the prompts a student and a privileged teacher read, and a way to grade completions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, str]
"""One chat message: `{"role": "user" | "system" | "assistant", "content": text}`."""

Reward = Callable[[Sequence["Problem"], Sequence[str]], "list[float | None]"]
"""Grades completions, one score each; `None` marks a completion that cannot be scored."""


@dataclass(frozen=True)
class Problem:
    """One question, with what is known about it.

    Attributes:
        question: what the student reads.
        solution: a worked solution, read by privileged teachers only; `None` if unknown.
        answer: the verifiable final answer as text; `None` if unknown.
        meta: further columns of the row (difficulty, chosen/rejected completions, ...).
    """

    question: str
    solution: str | None = None
    answer: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """How it begins, and the file and line it came from where they are known."""
        begins = repr(self.question[:60])
        return f"{begins} ({self.meta['_at']})" if "_at" in self.meta else begins


@dataclass(frozen=True)
class Task:
    """Problems by split, the prompts for them, and a verifier.

    Attributes:
        name: short name, as written in tables.
        train, test: problems to learn from, and held-out ones. Never the same problem in both.
        prompt: the messages the student reads.
        privileged: the messages a teacher reads who may see `Problem.solution`; raises
            `ValueError` on a problem without one.
        correct: whether a completion is right; `None` where the task has no answers.
        reward: a score for each completion; `None` where the task cannot be scored. Defaults
            to 1 for correct and 0 otherwise when the task has `correct`.
        reward_reads_answers: whether it needs `Problem.answer`; one of the user's own does not.
        final: the final answer that a completion states, normalised so that equal answers are
            equal strings (for majority votes); `None` if it states none.
        told: the messages of a teacher who is told a text, given the problem, the kind of context
            and the text; `contexts.TEMPLATES` by default.
        canvas: for masked models, the completion as far as it is given: the text of each token, and
            `None` where one is to be written. Its prompt may have no message at all.
        feedback: what the environment says about a completion, `None` if nothing; how it was
            graded by default.
        code: SHA-256 of each file of the user's that the reward stands in, by the reward's name.
    """

    name: str
    train: Sequence[Problem]
    test: Sequence[Problem]
    prompt: Callable[[Problem], list[Message]]
    privileged: Callable[[Problem], list[Message]]
    correct: Callable[[Problem, str], bool] | None = None
    reward: Reward | None = None
    final: Callable[[str], str | None] | None = None
    reward_reads_answers: bool = True
    told: Callable[[Problem, str, str], list[Message]] | None = None
    feedback: Callable[[Problem, str], str | None] | None = None
    canvas: Callable[[Problem], Sequence[str | None]] | None = None
    code: Mapping[str, str | None] = field(default_factory=dict)

    def score(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float | None]:
        """Rewards of completions, one each; `None` where one cannot be scored."""
        if self.reward is not None:
            return self.reward(problems, completions)
        if self.correct is None:
            return [None] * len(problems)
        return [
            None if problem.answer is None else float(self.correct(problem, text))
            for problem, text in zip(problems, completions, strict=True)
        ]
