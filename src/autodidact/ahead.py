"""Drawing ahead: batches of later steps, drawn by the weights of now while the trainer works.

One thread draws what was ordered, in that order, from a copy of the weights as they were at the
order. What is drawn is therefore the same on any machine, and the same as without the thread.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from autodidact.batch import Batch
from autodidact.ledger import Ledger
from autodidact.method import Rollout
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.threads import keep_apart


@dataclass(frozen=True)
class Made:
    """A batch that was drawn for a step to come.

    Attributes:
        problems: those that the rollout was given.
        spent: what drawing it cost. It is charged when the batch is taken.
    """

    problems: Sequence[Problem]
    batch: Batch
    spent: Ledger


class Ahead:
    """Orders of batches, and the thread that fills them."""

    def __init__(self, rollout: Rollout, task: Task, models: Models):
        self.rollout, self.task = rollout, task
        # Fast tokenizers refuse some calls while another thread is inside.
        self.tokenizer = copy.deepcopy(models.policy.tokenizer)
        self.waiting: deque[Future[Made]] = deque()
        self.worker = ThreadPoolExecutor(1, "ahead")

    def order(self, problems: Sequence[Problem], models: Models, seed: int) -> None:
        """Have a batch drawn from models that nobody changes, see `still`."""
        self.waiting.append(
            self.worker.submit(make, self.rollout, problems, models, self.task, seed)
        )

    def take(self, ledger: Ledger) -> Batch:
        """The batch that was ordered first, as soon as it is drawn; the ledger is charged.

        What went wrong while it was drawn is raised here.
        """
        made = self.waiting.popleft().result()
        for field in fields(Ledger):
            sofar, more = getattr(ledger, field.name), getattr(made.spent, field.name)
            setattr(ledger, field.name, sofar + more)
        return made.batch

    def made(self) -> list[Made]:
        """All that was ordered and not taken, as soon as it is drawn."""
        return [future.result() for future in self.waiting]

    def put_back(self, made: Sequence[Made]) -> None:
        """Have these taken next, and nothing that was ordered before."""
        self.close()
        for each in made:
            future: Future[Made] = Future()
            future.set_result(each)
            self.waiting.append(future)

    def close(self) -> None:
        """Forget all orders; waits for the batch that is being drawn."""
        self.worker.shutdown(cancel_futures=True)
        self.waiting.clear()
        self.worker = ThreadPoolExecutor(1, "ahead")

    def still(self, models: Models) -> Models:
        """The models as they are now, without a store: what an update moves is copied.

        Frozen weights are shared, so that with LoRA only the adapter is copied.
        """
        keep_apart()
        roles, averaged = models._roles, models.lasting().values()
        moving = {id(p) for lm in averaged for p in lm.model.parameters()}
        shared: dict[int, Any] = {
            id(p): p
            for lm in roles.values()
            for p in lm.model.parameters()
            if not p.requires_grad and id(p) not in moving
        }
        # Rendered prompts never change: threads may add to the same ones.
        shared |= {id(lm._rendered): lm._rendered for lm in roles.values()}
        shared[id(models.policy.tokenizer)] = self.tokenizer
        copies = copy.deepcopy(dict(roles), shared)
        found = Models(copies["policy"], engine=models.engine)
        found.policy.model.requires_grad_(False)
        found._roles.update(copies)
        found.auxiliaries = copy.deepcopy(models.auxiliaries)
        found.pack = models.pack
        found.ledger.optimizer_steps = models.ledger.optimizer_steps
        return found


def make(
    rollout: Rollout, problems: Sequence[Problem], models: Models, task: Task, seed: int
) -> Made:
    """Draw a batch, on a ledger of its own."""
    updates = models.ledger.optimizer_steps
    models.ledger = Ledger(optimizer_steps=updates)
    batch = dated(rollout(problems, models, task, seed), updates)
    return Made(problems, batch, replace(models.ledger, optimizer_steps=0))


def dated(batch: Batch, updates: int) -> Batch:
    """The batch with the stream `updates` [B]: how many the weights had seen that drew a row.

    A rollout that mixes weights says so itself, by [B] or [B, T].
    """
    if "updates" in batch.streams:
        return batch
    return batch.put(updates=torch.full_like(batch.group, updates, dtype=torch.float32))
