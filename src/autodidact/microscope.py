"""The token view: for a few held-out problems, what each token of a completion is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from autodidact.batch import Batch
from autodidact.grade import grade, texts
from autodidact.method import Method
from autodidact.models import Models
from autodidact.problem import Problem, Task

WORDS = 6
"""Top words shown of each law."""


@torch.no_grad()
def look(
    method: Method, models: Models, task: Task, problems: Sequence[Problem], seed: int = 0
) -> dict[str, Any]:
    """The first completion of each problem under the method's own rollout, token by token.

    Nothing is learned and nothing is charged to the ledger. Problems that the rollout drops (no
    pair, no verified answer) are left out.
    """
    with models.uncharged():
        batch = method.rollout.fresh()(problems, models, task, seed)
        if not len(batch):
            return {**_named(method), "problems": []}
        if task.correct is not None or task.reward is not None:
            batch = grade(batch, models)
        batch = method.credit(batch.to(models.policy.device), models)
        views = method.views(batch, models)
        scores = {name: models.score(view, batch) for name, view in views.items()}
        signal = method.signal(scores, batch, method.loss(scores, batch))
    policy = scores["policy"]
    columns: dict[str, Any] = {"signal": signal, "logp": policy.logp, "student": policy.topk(WORDS)}
    other = next((scores[name] for name in scores if not _own(name)), None)
    if other is not None:
        columns |= {"teacher_logp": other.logp, "teacher": other.topk(WORDS)}
    groups = batch.group.tolist()
    first = [groups.index(number) for number in dict.fromkeys(groups)]
    return {
        **_named(method),
        "teacher": next((name for name in scores if not _own(name)), None),
        "problems": [_problem(models, batch, row, columns) for row in first],
    }


def _own(name: str) -> bool:
    """Whether a view is one of the policy's own, of which a masked model may have several."""
    return name.partition(":")[0] == "policy"


def _named(method: Method) -> dict[str, str]:
    name, _, unit = method.signal_name.removesuffix(")").partition(" (")
    return {"signal": name, "unit": unit}


def _problem(models: Models, batch: Batch, row: int, columns: dict[str, Any]) -> dict[str, Any]:
    problem = batch.rows[row]
    correct = (
        batch.streams["correct"][row] if "correct" in batch.streams else torch.tensor(float("nan"))
    )
    tokens = []
    for column in batch.own[row].nonzero().squeeze(1).tolist():
        text = models.policy.tokenizer.decode([int(batch.ids[row, column])])
        token: dict[str, Any] = {"text": text, "teacher_logp": None, "teacher": None}
        for name, value in columns.items():
            if isinstance(value, tuple):
                token[name] = _words(models, value[0][row, column], value[1][row, column])
            else:
                token[name] = float(value[row, column])
        tokens.append(token)
    return {
        "question": problem.question,
        "solution": problem.solution,
        "answer": problem.answer,
        "completion": texts(batch.select([row]), models)[0],
        "correct": None if correct.isnan() else bool(correct),
        "tokens": tokens,
    }


def _words(models: Models, ids: torch.Tensor, logp: torch.Tensor) -> list[list[Any]]:
    decode = models.policy.tokenizer.decode
    return [[decode([i]), float(p)] for i, p in zip(ids.tolist(), logp.exp().tolist(), strict=True)]
