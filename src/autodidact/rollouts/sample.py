"""Rollouts that draw completions from the policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from autodidact.batch import Batch, batch_of
from autodidact.engines import local
from autodidact.engines.law import Law
from autodidact.engines.prefill import tokens_read
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

    Either way the ledger counts them: an arm pays for what it uses. A prompt that comes twice
    gets other completions the second time.
    """
    numbers = sample_numbers(prompts, n)
    store, origin = models.store, {}
    known: dict[tuple[int, int], Completion] = {}
    if store is not None and models.version is not None:
        origin = {
            "version": models.version, "law": law.describe(), "length": length, "seed": seed
        }  # fmt: skip
        for row, prompt in enumerate(prompts):
            for sample in numbers[row]:
                if (found := store.find(origin, prompt, sample)) is not None:
                    known[row, sample] = found
    models.ledger.reused += sum(len(each.ids) for each in known.values())
    missing = {
        row: [sample for sample in numbers[row] if (row, sample) not in known]
        for row in range(len(prompts))
    }
    missing = {row: samples for row, samples in missing.items() if samples}
    if missing:
        fresh = local.generate(
            models.policy, [prompts[row] for row in missing], list(missing.values()),
            length, law, seed,
        )  # fmt: skip
        for (row, samples), completions in zip(missing.items(), fresh, strict=True):
            known |= {(row, k): each for k, each in zip(samples, completions, strict=True)}
            if store is not None and origin:
                for sample, completion in zip(samples, completions, strict=True):
                    store.add(origin, prompts[row], sample, completion)
    models.ledger.generated += sum(len(each.ids) for each in known.values())
    models.ledger.prefilled += tokens_read(models.policy, prompts)
    return [[known[row, sample] for sample in numbers[row]] for row in range(len(prompts))]


def sample_numbers(prompts: Sequence[Sequence[int]], n: int) -> list[range]:
    """The numbers of the n samples of each prompt: 0 to n - 1, then n to 2n - 1 if it recurs."""
    seen: Counter[tuple[int, ...]] = Counter()
    numbers = []
    for prompt in map(tuple, prompts):
        numbers.append(range(seen[prompt] * n, (seen[prompt] + 1) * n))
        seen[prompt] += 1
    return numbers


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
