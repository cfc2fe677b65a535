"""Rollouts that another role draws: the target of a draft, an opponent, an old copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from autodidact.batch import Batch, batch_of
from autodidact.law import Law, prompt_key, uniform
from autodidact.method import Rollout
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.rollouts.sample import Sample, complete, sampled_batch
from autodidact.store import Completion

COIN = 2**42
"""Added to the seed for the choice of who draws."""


@dataclass(frozen=True)
class FromRole(Sample):
    """n completions of each problem by a role; those of a share of the problems by the policy.

    Who draws depends on the seed and the prompt. The role draws with the local engine. Streams:
    those of `Sample` but for `raw`, which speaks of the policy's own law.

    Attributes:
        role: who draws, such as a folder or "copy:50".
        share: chance that it is the policy instead.

    Raises:
        ValueError: nothing to draw, or a share outside 0 to 1.
    """

    role: str = "initial"
    share: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise ValueError(f"share={self.share} is not allowed: it must be from 0 to 1")

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        prompts = [models.policy.render(task.prompt(problem)) for problem in problems]
        keys = torch.tensor([prompt_key(prompt) for prompt in prompts])
        own = (uniform(seed + COIN, keys, torch.zeros_like(keys), 0) < self.share).tolist()
        drawn: dict[int, list[Completion]] = {}
        for drawer, turn in ((models, True), (in_place(models, self.role), False)):
            places = [i for i, each in enumerate(own) if each == turn]
            asked = [prompts[i] for i in places]
            found = complete(drawer, asked, self.n, self.length, self.law, seed) if asked else []
            drawn |= dict(zip(places, found, strict=True))
        lists = [drawn[i] for i in range(len(prompts))]
        batch = sampled_batch(problems, prompts, lists, task, self.law)
        streams = {name: value for name, value in batch.streams.items() if name != "raw"}
        return replace(batch, streams=streams)


@dataclass(frozen=True)
class SolutionPairs(Rollout):
    """The solution of each problem, chosen, and a completion by an old policy, rejected.

    The old policy of a step is one of several roles, each as likely as the others.

    Streams: `side` [B], +1 for chosen and -1 for rejected; `past` [B], the number of the role that
    drew the rejected one; `finished` [B].

    Attributes:
        roles: of the old policies.

    Raises:
        ValueError: no role or no tokens to draw; and when drawing, a solution that does not fit
            the context after its prompt.
    """

    length: int = 1024
    law: Law = field(default_factory=Law)
    roles: tuple[str, ...] = ("initial",)
    n: int = 2

    def __post_init__(self):
        if not self.roles or self.length < 1:
            raise ValueError(
                f"length={self.length} and roles {self.roles}: both must be at least one"
            )

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        # All of them now: one that follows the policy must be there before the first update.
        old = [in_place(models, role) for role in self.roles]
        past = self._turn(seed)
        policy, rows, prompts, completions, ends = models.policy, [], [], [], []
        asked = [policy.render(task.prompt(problem)) for problem in problems]
        drawn = complete(old[past], asked, 1, self.length, self.law, seed)
        for problem, prompt, [other] in zip(problems, asked, drawn, strict=True):
            assert problem.solution is not None, "checked before the run: the method needs it"
            solution = policy.encode(problem.solution)
            if len(prompt) + len(solution) > policy.context:
                raise ValueError(
                    f"the solution of the problem {problem.place} has {len(solution)} tokens, too "
                    f"many for the context of {policy.context} after a prompt of {len(prompt)}"
                )
            rows += [problem, problem]
            prompts += [prompt, prompt]
            completions += [solution, other.ids]
            ends += [1.0, float(other.finished)]
        values = {
            "side": [1.0, -1.0] * len(asked), "past": [float(past)] * len(rows), "finished": ends
        }  # fmt: skip
        return batch_of(
            rows,
            prompts,
            completions,
            task,
            group=[i // 2 for i in range(len(rows))],
            temperature=self.law.temperature or 1.0,
            values=values,
        )

    def _turn(self, seed: int) -> int:
        zero = torch.zeros(1, dtype=torch.long)
        return int(uniform(seed + COIN, zero, zero, 0) * len(self.roles))


def in_place(models: Models, role: str) -> Models:
    """The same ledger, with a role where the policy is: what draws then draws from it."""
    if role == "policy":
        return models
    found = Models(models[role])
    found.ledger = models.ledger
    return found
