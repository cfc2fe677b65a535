"""What is asked of a problem, and what a teacher reads who may see its solution.

Tasks whose question is the whole prompt share these: a teacher reads the question and the solution
by a template with the places `{question}` and `{solution}`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from autodidact.problem import Message, Problem

TERSE = "{question}\nsolution:\n{solution}"
"""For a tiny model: no words beside the two."""


@dataclass(frozen=True)
class Asking:
    """The three prompts of a task.

    Attributes:
        reference: the template of what a privileged teacher reads.
    """

    reference: str = TERSE

    def prompt(self, problem: Problem) -> list[Message]:
        return [{"role": "user", "content": problem.question}]

    def privileged(self, problem: Problem) -> list[Message]:
        """`ValueError` for a problem without a solution."""
        if problem.solution is None:
            raise ValueError(f"no solution to show for {problem.question!r}")
        text = self.reference.format(question=problem.question, solution=problem.solution)
        return [{"role": "user", "content": text}]

    def told(self, problem: Problem, kind: str, text: str) -> list[Message]:
        """A text of another kind in the solution's place; a system text before the question."""
        if kind == "system":
            return [{"role": "user", "content": f"{text}\n{problem.question}"}]
        return self.privileged(replace(problem, solution=text))
