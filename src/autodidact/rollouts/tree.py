"""Rollouts that branch: completions of a problem that share what they begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from autodidact.batch import Batch
from autodidact.law import Law
from autodidact.method import Rollout
from autodidact.models import Models
from autodidact.names import at_least_one
from autodidact.problem import Problem, Task
from autodidact.rollouts.paths import Path, batch_of_paths, begin, go_on


@dataclass(frozen=True)
class Tree(Rollout):
    """A tree of completions of each problem: at each cut every path goes on `branch` times.

    Shared beginnings are drawn once, and counted once as generated. The rows are the leaves, each
    from its root, and form one group. A path that ends before a cut is one leaf, which stands
    for all that it would have become. Leaf k of the full tree follows the law of `Sample`,
    whatever k: its tokens are drawn with uniform numbers of their own, and leaf 0 is sample 0.
    Leaves are not independent, and a mean over rows favours long completions: weighed by
    `leaves` it does not.

    Streams: those of `Sample`; `node` [B, T], the number of the piece of the tree that a token
    belongs to, unique in the batch and 0 at prompts; `leaves` [B], how many leaves of the full
    tree the row stands for: their sum over a group is n.

    Source: TreeRL, arXiv 2506.11902, which branches where the policy is unsure; here the cuts are
    given beforehand, so that they change no law.

    Attributes:
        branch: children of a path at a cut.
        at: the cuts, as numbers of tokens written.
        length: at most this many tokens of a row.
        n: leaves of a problem where no path ends early, branch ** len(at).

    Raises:
        ValueError: cuts that do not increase from 1 on to below `length`.
    """

    branch: int = 2
    at: tuple[int, ...] = (64, 128)
    length: int = 1024
    law: Law = field(default_factory=Law)
    n: int = field(init=False)

    def __post_init__(self):
        at_least_one(branch=self.branch, length=self.length)
        whole = (0, *self.at, self.length)
        if list(whole) != sorted(set(whole)):
            raise ValueError(
                f"at={tuple(self.at)} is not allowed: the cuts must increase, from 1 on to below "
                f"length={self.length}"
            )
        object.__setattr__(self, "n", self.branch ** len(self.at))

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        paths = begin(problems, models, task, self.n)[:: self.n]
        nodes, leaves = 1, self.n
        for stop in (*self.at, self.length):
            missing = [0 if path.finished else stop - len(path) for path in paths]
            numbers = range(nodes, nodes := nodes + len(paths))
            paths = go_on(models, paths, missing, self.law, seed, numbers)
            if stop < self.length:
                leaves //= self.branch
                paths = [child for path in paths for child in self._children(path, leaves)]
        batch = batch_of_paths(paths, task, self.law, "node")
        return batch.put(leaves=torch.tensor([float(self._stands_for(path)) for path in paths]))

    def _children(self, path: Path, leaves: int) -> list[Path]:
        """The ways on, each named by the first of its leaves."""
        if path.finished:
            return [path]
        return [replace(path, sample=path.sample + k * leaves) for k in range(self.branch)]

    def _stands_for(self, path: Path) -> int:
        return self.n // self.branch ** (len(set(path.notes)) - 1)
