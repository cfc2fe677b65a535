"""Rollouts of masked models whose order a network beside the policy decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from autodidact.auxiliary import Auxiliary
from autodidact.batch import Batch
from autodidact.engines.unmask import Adaptive, Ranked, Unmask
from autodidact.law import Law
from autodidact.method import Rollout
from autodidact.models import Models
from autodidact.names import at_least_one
from autodidact.problem import Problem, Task
from autodidact.rollouts.sample import opening, sampled_batch, solve


@dataclass(frozen=True)
class Opened(Rollout):
    """n completions of each problem, written in the order that the network of an auxiliary gives.

    Streams: those of `Sample`, and with `Unmask` `rank` [B, T], the turn of each token within its
    step, from 1 on.

    Attributes:
        engine: what draws, without its network.
        auxiliary: whose network it gets, as it is then.
    """

    n: int
    length: int
    law: Law
    engine: Unmask | Adaptive
    auxiliary: Auxiliary

    def __post_init__(self):
        at_least_one(n=self.n, length=self.length)

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        engine = replace(self.engine, network=models.trained(self.auxiliary).network)
        drawn = solve(models, task, problems, self.n, self.length, self.law, seed, engine)
        prompts = [opening(models.policy, task, problem)[0] for problem in problems]
        batch = sampled_batch(problems, prompts, drawn, task, self.law, ends=models.policy.ends)
        turns = [each.rank for row in drawn for each in row if isinstance(each, Ranked)]
        if not turns:
            return batch
        rank = torch.zeros(batch.ids.shape, dtype=torch.long)
        for row, turn in enumerate(turns):
            rank[row, batch.take("canvas")[row] == 1] = torch.tensor(turn)
        return batch.put(rank=rank)
