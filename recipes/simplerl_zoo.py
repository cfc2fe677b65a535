"""SimpleRL-Zoo (2503.18892): one plain GRPO, and data whose difficulty fits the model.

`real()` has the paper's settings, for a GPU; they have not been run here. `tiny()` is the same
recipe on the shipped model, and `bins()` are sums of three difficulties for it. As a command,
`python -m recipes.simplerl_zoo`, each bin is learned alone, and the table shows that there is
something to learn only where the rate of right answers lies between 0 and 1:

passes      share of right answers to the questions of the bin, before
spread      share of groups with right and wrong answers among them: all others teach nothing
after       share of right answers to other questions of the bin, after training; and before

Here as there the reward is 1 for a right answer and 0 for any other, without a reward for form.
The paper updates four times on the answers of a step, each time on a quarter; here it is once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from autodidact.evaluate import Evaluation
from autodidact.grade import grade
from autodidact.law import Law
from autodidact.method import Method
from autodidact.methods.grpo import grpo
from autodidact.model import load
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.rollouts.sample import Sample
from autodidact.run import Run
from autodidact.tasks.random_calculation import random_calculation
from autodidact.train import Training

LENGTH = 48
BINS = {
    "easy": {"steps": 1, "operators": "+", "train": 240, "test": 120},
    "medium": {"steps": (2, 3), "operators": "+-*"},
    "hard": {"steps": 5, "largest": 99, "operators": "+", "bound": 1000},
}
"""The shipped model answers about nine, four and none of ten questions of these right."""


def real(large: bool = False, remove_clip: bool = False) -> tuple[Method, Run]:
    """The settings of the paper: 8000 problems, 1024 of them in a step, 8 answers to each.

    Args:
        large: a model of more than 14B, for which the penalty is ten times as heavy.
        remove_clip: answers that ran out of length are masked out, an option of its release.
    """
    method = grpo(
        8, 8192, clip=0.2, kl=1e-3 if large else 1e-4, eps=1e-6, entropy=1e-3,
        mask_truncated=remove_clip,
    )  # fmt: skip
    return method, Run(steps=100, rows=1024 * 8, micro_rows=16, lr=5e-7)


def tiny(remove_clip: bool = False, seed: int = 0) -> tuple[Method, Run]:
    """For the shipped model: minutes. Neither penalty nor bonus, so that only rewards teach."""
    method = grpo(8, LENGTH, clip=0.2, eps=1e-6, mask_truncated=remove_clip)
    return method, Run(steps=30, rows=64, lr=2e-4, seed=seed)


def bins() -> dict[str, Task]:
    """Sums of three difficulties, right or wrong with nothing between; the easy carry no digit."""
    usual = {"largest": 20, "bound": 200, "train": 400, "test": 100}
    found = {}
    for name, options in BINS.items():
        settings = {**usual, **options}
        task = random_calculation(atoms=("integer",), wording="terse", **settings)
        found[name] = replace(task, reward=None)
    easy = found["easy"]
    train, test = ([p for p in part if not _carries(p)] for part in (easy.train, easy.test))
    return {**found, "easy": replace(easy, train=train, test=test)}


def _carries(problem: Problem) -> bool:
    """Whether the last digits of a sum of two numbers make ten or more."""
    return sum(int(number) % 10 for number in problem.question.split("+")) > 9


def rates(models: Models, task: Task, problems: int = 50, samples: int = 8) -> torch.Tensor:
    """For each of the first problems of a bin the share of right answers."""
    asked = task.train[:problems]
    with models.uncharged():
        batch = grade(Sample(samples, LENGTH, Law())(asked, models, task, 0), models)
    return batch.take("reward").view(len(asked), samples).mean(1)


@dataclass(frozen=True)
class Found:
    """One bin: the rate of right answers, how many groups can teach, and what was learned."""

    name: str
    passes: float
    spread: float
    before: float
    after: float

    def __str__(self) -> str:
        numbers = (self.passes, self.spread, self.before, self.after)
        return f"{self.name:<8}" + "".join(f"{100 * number:>8.1f}" for number in numbers)


def study(task: Task, name: str, method: Method, run: Run) -> Found:
    """Train the shipped model on one bin alone."""
    models = Models(load("tiny"))
    share = rates(models, task)
    look = Evaluation(task, task.test, samples=8, length=LENGTH)
    before = look(models)["metrics"]["sampled"]
    training = Training(method, models, task, run)
    for _ in range(run.steps or 0):
        training.advance()
    mixed = ((share > 0) & (share < 1)).float().mean()
    after = look(models)["metrics"]["sampled"]
    return Found(name, float(share.mean()), float(mixed), before, after)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.simplerl_zoo", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--remove-clip", action="store_true", help="mask truncated answers")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    method, run = tiny(options.remove_clip, options.seed)
    run = replace(run, steps=options.steps or run.steps)
    print(f"{'per cent':<8}{'passes':>8}{'spread':>8}{'before':>8}{'after':>8}")
    for name, task in bins().items():
        print(study(task, name, method, run), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
