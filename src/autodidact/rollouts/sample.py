"""Rollouts that draw completions from the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from autodidact.batch import Batch, batch_of
from autodidact.engines import local
from autodidact.engines.law import Law
from autodidact.method import Rollout
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.store import Completion


@dataclass(frozen=True)
class Sample(Rollout):
    """n completions of each problem, drawn from the policy.

    Streams: `logp` [B, T] under the law of sampling, `raw` [B, T] the same without truncation,
    `finished` [B], 1 where the end token came before the length ran out. Rows of one problem
    stand together and share a group.

    Attributes:
        n: completions of each problem.
        length: at most this many tokens each.
    """

    n: int = 1
    length: int = 1024
    law: Law = field(default_factory=Law)

    def __post_init__(self):
        for name in ("n", "length"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name}={getattr(self, name)} is not allowed: it must be at least 1"
                )

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        prompts = [models.policy.render(task.prompt(problem)) for problem in problems]
        drawn = complete(models, prompts, self.n, self.length, self.law, seed)
        return sampled_batch(problems, prompts, drawn, task, self.law)


def complete(
    models: Models,
    prompts: Sequence[Sequence[int]],
    n: int,
    length: int,
    law: Law,
    seed: int,
) -> list[list[Completion]]:
    """n completions of each prompt by the policy, drawn, or read from the store where they lie.

    Either way the ledger counts them: an arm pays for what it uses.
    """
    origin = None
    if models.store is not None and models.version is not None:
        origin = {
            "version": models.version, "law": law.describe(), "length": length, "seed": seed
        }  # fmt: skip
    found: list[list[Completion | None]] = [
        [models.store.find(origin, prompt, sample) if origin else None for sample in range(n)]
        for prompt in prompts
    ]
    missing = [
        (row, [sample for sample, each in enumerate(known) if each is None])
        for row, known in enumerate(found)
    ]
    missing = [(row, samples) for row, samples in missing if samples]
    if missing:
        fresh = local.generate(
            models.policy, [prompts[row] for row, _ in missing],
            [samples for _, samples in missing], length, law, seed,
        )  # fmt: skip
        for (row, samples), completions in zip(missing, fresh, strict=True):
            for sample, completion in zip(samples, completions, strict=True):
                found[row][sample] = completion
                if origin:
                    models.store.add(origin, prompts[row], sample, completion)
    new = sum(len(found[row][sample].ids) for row, samples in missing for sample in samples)
    total = sum(len(each.ids) for known in found for each in known)
    models.ledger.generated += total
    models.ledger.reused += total - new
    models.ledger.prefilled += sum(map(len, prompts))
    return found


def sampled_batch(
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    drawn: Sequence[Sequence[Completion]],
    task: Task,
    law: Law,
) -> Batch:
    """Completions of problems as a batch, one group for each problem."""
    rows = [(i, each) for i, completions in enumerate(drawn) for each in completions]
    return batch_of(
        [problems[i] for i, _ in rows],
        [prompts[i] for i, _ in rows],
        [each.ids for _, each in rows],
        task,
        group=[i for i, _ in rows],
        temperature=law.temperature or 1.0,
        tokens={"logp": [e.logp for _, e in rows], "raw": [e.raw for _, e in rows]},
        values={"finished": [float(e.finished) for _, e in rows]},
    )
