"""Critics that name wrong steps, and their votes.

Shapes: B rows, T columns. A critic is a function `(problem, steps) -> numbers of the wrong ones`,
steps being the texts of one completion and numbers counting from 0; or it is the policy itself,
which reads the solution.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float

from autodidact import calls
from autodidact.batch import Batch
from autodidact.credits.steps import Steps
from autodidact.engine import Request
from autodidact.law import Law
from autodidact.models import Models
from autodidact.names import at_least_one, choose
from autodidact.problem import Message, Problem, Task
from autodidact.rollouts.sample import answer

Vote = Literal["intersection", "majority", "union", "average"]
ARITHMETIC = "autodidact.tasks.steps:wrong"
"""What the critic "arithmetic" is."""

ASK = (
    "{known}\n\nThis is an attempt, step by step:\n{attempt}\n\nWhich of its steps are wrong? "
    "End with a line such as\nwrong: 2, 5\nor\nwrong: none"
)
"""What the policy is asked as a critic; `known` is what a privileged teacher reads."""

_VERDICT = re.compile(r"wrong:([^\n]*)", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,6}")


def voted(share: Float[torch.Tensor, "B T"], vote: Vote) -> Float[torch.Tensor, "B T"]:
    """How wrong each token is, given the share of critiques that say so.

    intersection: all of them; majority: half of them or more; union: any; average: the share.
    """
    choose("vote", vote, get_args(Vote))
    if vote == "average":
        return share
    if vote == "union":
        return (share > 0).to(share.dtype)
    least = 1.0 if vote == "intersection" else 0.5
    return (share >= least).to(share.dtype)


def fined(
    reward: Float[torch.Tensor, "B"],
    wrong: Float[torch.Tensor, "B T"],
    own: Bool[torch.Tensor, "B T"],
    right: float = 2.0,
    fine: float = 1.0,
) -> Float[torch.Tensor, "B T"]:
    """r_t = right R - fine wrong_t at own tokens, 0 elsewhere (CAPO, 2508.02298)."""
    return torch.where(own, right * reward[:, None] - fine * wrong, 0.0)


@dataclass(frozen=True)
class Judge:
    """Critics and how they vote.

    Attributes:
        critic: names with commas: "arithmetic" checks equations (`tasks.steps`), "self" is the
            policy with the solution in its context, and `package.module:function` or
            `file.py:function` a function of one's own.
        k: critiques that "self" draws of each completion; a function is asked once.
        vote: see `voted`.
        length: tokens of a critique at most.

    Raises:
        ValueError: an unknown critic or vote; and when asked, whatever keeps a critique from being
            drawn, or a number of a step that there is not.
    """

    critic: str = "arithmetic"
    k: int = 4
    vote: Vote = "intersection"
    length: int = 256

    def __post_init__(self):
        at_least_one(k=self.k, length=self.length)
        choose("vote", self.vote, get_args(Vote))
        for name in self.names:
            if name != "self":
                _function(name)

    @property
    def names(self) -> list[str]:
        return [name.strip() for name in self.critic.split(",")]

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields that every problem must have."""
        return ("solution",) if "self" in self.names else ()

    def wrong(self, batch: Batch, steps: Steps, models: Models) -> Float[torch.Tensor, "B T"]:
        """How wrong each token is, from 0 to 1."""
        critiques: list[Sequence[Collection[int]]] = []
        for name in self.names:
            if name == "self":
                critiques += self._said(batch, steps, models)
                continue
            critic = _function(name)
            pairs = zip(batch.rows, steps.texts, strict=True)
            critiques.append([_checked(name, critic(*pair), pair[1]) for pair in pairs])
        share = torch.stack([steps.marked(each) for each in critiques]).sum(0) / len(critiques)
        return voted(share, self.vote)

    def _said(self, batch: Batch, steps: Steps, models: Models) -> list[list[set[int]]]:
        """k critiques of each row by the policy, drawn anew after each update."""
        policy, seed = models.policy, models.ledger.optimizer_steps
        pairs = zip(batch.rows, steps.texts, strict=True)
        prompts = [tuple(policy.render(_asked(batch.task, *pair))) for pair in pairs]
        requests = [Request(p, number, self.length) for number in range(self.k) for p in prompts]
        found = answer(models, requests, Law(), seed)
        told = [_numbers(policy.decode(each.ids)) for each in found]
        rows = len(prompts)
        return [
            [
                {n for n in numbers if n < len(texts)}
                for numbers, texts in zip(told[i : i + rows], steps.texts, strict=True)
            ]
            for i in range(0, len(told), rows)
        ]


def _function(name: str) -> Callable[[Problem, Sequence[str]], Collection[int]]:
    if ":" not in name and name != "arithmetic":
        choose("critic", name, ("arithmetic", "self", "file.py:function"))
    return calls.function(ARITHMETIC if name == "arithmetic" else name)


def _checked(name: str, numbers: Collection[int], steps: Sequence[str]) -> Collection[int]:
    """The numbers that a critic gave; `ValueError` for one that no step has."""
    beyond = [n for n in numbers if not 0 <= n < len(steps)]
    if beyond:
        raise ValueError(
            f"critic {name!r} calls step {beyond[0]} wrong, of {len(steps)} steps numbered from 0"
        )
    return numbers


def _asked(task: Task, problem: Problem, steps: Sequence[str]) -> list[Message]:
    """What the policy reads as a critic of these steps."""
    *before, last = task.privileged(problem)
    attempt = "\n".join(f"{number}: {step}" for number, step in enumerate(steps, 1))
    return [*before, {**last, "content": ASK.format(known=last["content"], attempt=attempt)}]


def _numbers(text: str) -> set[int]:
    """The steps that a critique calls wrong in its last verdict, counted from 0."""
    verdicts = _VERDICT.findall(text)
    listed = _NUMBER.findall(verdicts[-1]) if verdicts else []
    return {int(number) - 1 for number in listed if int(number) > 0}
