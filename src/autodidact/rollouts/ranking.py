"""What the completions of a problem are chosen by.

Shapes: B rows, T columns, n completions of a problem, V words. Every function gives a number for
each completion: the highest is best, and NaN is never chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float

from autodidact.batch import Batch
from autodidact.credits.spans import tokens_until, written
from autodidact.grade import texts
from autodidact.model import LM
from autodidact.models import Models
from autodidact.problem import Task
from autodidact.view import plain

By = Literal["reward", "certainty", "likelihood", "confidence", "majority", "borda"]
STATED = ("confidence", "majority", "borda")
"""What reads the final answer that a completion states."""
ROWS = 16
"""Completions read at a time."""


def check(by: By, task: Task) -> None:
    """`ValueError` where the task lacks what is read."""
    if by in STATED and task.final is None:
        raise ValueError(
            f"by={by!r} needs the final answer of a completion, and the task {task.name!r} has "
            "no `final`"
        )
    if by == "reward" and task.reward is None and task.correct is None:
        raise ValueError(
            f"by='reward' needs graded completions, and the task {task.name!r} has neither "
            "`reward` nor `correct`"
        )


def ranked(by: By, batch: Batch, models: Models, power: float) -> list[float]:
    """The number that each row is chosen by. For "reward" the rows must be graded."""
    if by == "reward":
        return batch.take("reward").tolist()
    if by == "likelihood":
        return row_means(batch, batch.take("raw")).tolist()
    if by == "certainty":
        return certainty(batch, models).tolist()
    assert batch.task.final is not None
    answers = [batch.task.final(text) for text in texts(batch, models)]
    if by == "confidence":
        return confidence(batch, models, answers).tolist()
    sure = certainty(batch, models).tolist() if by == "borda" else [0.0] * len(batch)
    found = [math.nan] * len(batch)
    for rows in members(batch):
        given = [answers[row] for row in rows]
        weights = [1.0] * len(rows)
        if by == "borda":
            weights = borda(given, [sure[row] for row in rows], power)
        for row, value in zip(rows, votes(given, weights), strict=True):
            found[row] = value
    return found


def members(batch: Batch) -> list[list[int]]:
    """The rows of each group, groups in the order of their first rows."""
    found: dict[int, list[int]] = {}
    for row, group in enumerate(batch.group.tolist()):
        found.setdefault(group, []).append(row)
    return list(found.values())


def row_means(batch: Batch, values: Float[torch.Tensor, "B T"]) -> Float[torch.Tensor, "B"]:
    """The mean of each row over its own tokens."""
    return (values * batch.own).sum(1) / batch.own.sum(1)


@torch.no_grad()
def certainty(batch: Batch, models: Models) -> Float[torch.Tensor, "B"]:
    """Self-certainty of each row, at temperature 1, in nats.

        SC(y) = 1/n sum_t KL(U || p_t) = -1/(n V) sum_t sum_v log(V p_t(v))

    p_t is the law that token t was drawn from. Rows are read once more, without gradient.

    Source: Scalable Best-of-N Selection via Self-Certainty, arXiv 2502.18581, whose release is
    shifted by one: it takes the law after each token, so that of the first is left out.
    """
    found = []
    for piece in batch.to(models.policy.device).split(ROWS):
        scores = models.score(plain(piece, grad=False), piece, temperature=1.0)
        found.append(row_means(piece, scores.self_certainty).cpu())
    return torch.cat(found)


def confidence(
    batch: Batch, models: Models, answers: Sequence[str | None]
) -> Float[torch.Tensor, "B"]:
    """Mean probability of the tokens that write the final answer, of its last mention.

    c(y) = mean_{t in answer} p(y_t), of the untruncated law at the temperature of sampling.
    A completion that does not write its answer as `final` gives it has none: minus infinity.

    Source: CRew, Confidence as a Reward, arXiv 2510.13501.
    """
    found = []
    for row, answer in enumerate(answers):
        own = batch.own[row]
        tokens = span(models.policy, batch.ids[row][own].tolist(), answer)
        chosen = batch.take("raw")[row][own][tokens.start : tokens.stop]
        found.append(float(chosen.exp().mean()) if len(chosen) else -math.inf)
    return torch.tensor(found)


def span(lm: LM, ids: Sequence[int], answer: str | None) -> range:
    """The tokens that write the last mention of an answer; empty where there is none."""
    text = lm.decode(ids)
    start = text.rfind(answer) if answer else -1
    if start < 0:
        return range(0)
    assert answer is not None
    after, last = tokens_until(lm, ids, [start + 1, start + len(answer)])
    # The token that completes the first character is preceded by those that begin it.
    [first] = tokens_until(lm, ids, [written(lm, ids)(after - 1)])
    return range(first, last)


def borda(answers: Sequence[str | None], sure: Sequence[float], power: float) -> list[float]:
    """The weight of each vote, ((n - rank + 1) / n) ** power: rank 1 is the surest.

    Completions without an answer rank last. Power 0 gives all the same weight, infinity leaves
    the surest alone.

    Source: Borda voting of arXiv 2502.18581, divided by n ** power.
    """
    n = len(answers)
    order = sorted(range(n), key=lambda i: (answers[i] is None, -sure[i]))
    weights = [0.0] * n
    for place, i in enumerate(order):
        weights[i] = ((n - place) / n) ** power
    return weights


def votes(answers: Sequence[str | None], weights: Sequence[float]) -> list[float]:
    """The weights of those who gave the winning answer, and NaN for all others.

    The winner has the largest sum of weights; ties go to the answer seen first. `None` marks a
    completion without an answer: it does not vote.
    """
    totals: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals[answer] = totals.get(answer, 0.0) + weight
    if not totals:
        return [math.nan] * len(answers)
    winner = max(totals, key=totals.__getitem__)
    return [
        weight if answer == winner else math.nan
        for answer, weight in zip(answers, weights, strict=True)
    ]
