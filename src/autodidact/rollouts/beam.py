"""Rollouts that a value network guides: search step by step, and the best of whole completions.

Shapes: B rows, T columns.

Source: TVM, arXiv 2407.12863; the settings of its beam are reconstructed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float

from autodidact.batch import Batch
from autodidact.credits.spans import tokens_until
from autodidact.credits.value import Critic
from autodidact.law import Law
from autodidact.method import Rollout
from autodidact.model import LM
from autodidact.models import Models
from autodidact.names import at_least_one
from autodidact.problem import Problem, Task
from autodidact.rollouts.paths import Path, batch_of_paths, begin, go_on


@dataclass(frozen=True)
class Beam(Rollout):
    """Of several ways to go on, step by step, those that a value network finds most promising.

    Every kept path of a problem is continued `branch` times, by a step each; of all of these the
    `width` with the highest value of their last token are kept, equal ones once, ties in order.
    Finished ones stand for themselves. At last the n best are rows. What was chosen is no sample
    of the policy any more: `logp` belongs to the plain draw. With branch=1 these are the best n of
    `width` samples, and with width=1 as well it is `Sample`.

    Streams: those of `Sample`, and `value` [B], of the last token.

    Attributes:
        critic: the network, which reads states "after" a token, as that of `methods.tvm` does.
        n: rows of a problem, at most `width`.
        step: at most this many tokens of a step.
        mark: text that ends a step, such as a line break; "" for none.
        length: at most this many tokens of a row.

    Raises:
        ValueError: n above `width`, a number below 1, or a critic that reads states "before".
    """

    critic: Critic = field(default_factory=lambda: Critic(where="after"))
    n: int = 1
    width: int = 4
    branch: int = 4
    step: int = 64
    mark: str = "\n"
    length: int = 1024
    law: Law = field(default_factory=Law)

    def __post_init__(self):
        at_least_one(
            n=self.n, width=self.width, branch=self.branch, step=self.step, length=self.length
        )
        if self.n > self.width:
            raise ValueError(
                f"n={self.n} rows of width={self.width} paths: it must be at most that"
            )
        if self.critic.where != "after":
            raise ValueError("where='before' is not allowed: the value of a path is that after it")

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        paths = begin(problems, models, task, self.width * self.branch)
        names = {
            group: [p.sample for p in paths if p.group == group] for group in range(len(problems))
        }
        while True:
            paths = self._stepped(paths, models, seed)
            values = last_values(self.critic, models, batch_of_paths(paths, task, self.law))
            kept = best(paths, values.tolist(), self.width)
            paths = [paths[i] for i in kept]
            if not any(map(self._open, paths)):
                break
            paths = self._branched(paths, names)
        rows = best(paths, values[kept].tolist(), self.n)
        batch = batch_of_paths([paths[i] for i in rows], task, self.law)
        return batch.put(value=values[kept][rows])

    def _open(self, path: Path) -> bool:
        return not path.finished and len(path) < self.length

    def _stepped(self, paths: Sequence[Path], models: Models, seed: int) -> list[Path]:
        """Each open path with one more step."""
        sizes = [min(self.step, self.length - len(p)) if self._open(p) else 0 for p in paths]
        longer = go_on(models, paths, sizes, self.law, seed, [0] * len(paths))
        return [
            self._cut(models.policy, new, len(old)) if self.mark else new
            for old, new in zip(paths, longer, strict=True)
        ]

    def _cut(self, lm: LM, path: Path, start: int) -> Path:
        """The path without what follows the first mark of its last step."""
        ids = path.written.ids[start:]
        text = lm.decode(ids)
        if self.mark not in text:
            return path
        size = tokens_until(lm, ids, [text.index(self.mark) + len(self.mark)])[0]
        return path.cut(start + size) if size < len(ids) else path

    def _branched(self, paths: Sequence[Path], names: Mapping[int, Sequence[int]]) -> list[Path]:
        """The ways on: one keeps the sample number of its parent, the others take free ones."""
        taken = {(path.group, path.sample) for path in paths}
        free = {g: [s for s in each if (g, s) not in taken] for g, each in names.items()}
        found = []
        for path in paths:
            more = self.branch - 1 if self._open(path) else 0
            found += [path] + [replace(path, sample=free[path.group].pop(0)) for _ in range(more)]
        return found


def best(paths: Sequence[Path], values: Sequence[float], count: int) -> list[int]:
    """The places of the `count` highest of each group, equal texts once, ties to the earlier."""
    found: dict[int, list[int]] = {path.group: [] for path in paths}
    seen: set[tuple[int, ...]] = set()
    for i in sorted(range(len(paths)), key=lambda i: -values[i]):
        group, name = paths[i].group, (paths[i].group, *paths[i].written.ids)
        if len(found[group]) < count and name not in seen:
            seen.add(name)
            found[group].append(i)
    return [i for rows in found.values() for i in rows]


def last_values(critic: Critic, models: Models, batch: Batch) -> Float[torch.Tensor, "B"]:
    """What the critic says after the last own token of each row."""
    _, numbers = critic.numbers(batch, models)
    last = batch.own & (batch.own.cumsum(1) == batch.own.sum(1, keepdim=True))
    return (numbers * last).sum(1)
