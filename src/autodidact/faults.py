"""Numbers that went wrong: where they are, and what is kept so that it can be seen again.

A loss or gradient that is not finite, of the policy or of a network beside it, makes no update:
weights, optimizer, averages and such networks stay. Only then is it looked for, along the way of a
batch: its streams, what the roles said, the values of the loss, the networks, the gradient of each
weight; the first of these with a number that is not finite is the place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from autodidact import parallel
from autodidact.batch import Batch
from autodidact.guards import Halted
from autodidact.memory import exhausted
from autodidact.method import Method
from autodidact.models import Models
from autodidact.run import Run
from autodidact.scores import Scores
from autodidact.strict import word

if TYPE_CHECKING:
    from autodidact.train import Training

MOST = 8
"""Places of one kind that are named; the others are counted."""

Place = dict[str, Any]
"""tensor, value, count and, where known: row, question, column and the text of its token."""


@torch.no_grad()
def located(
    method: Method,
    models: Models,
    batch: Batch,
    micro_rows: int | None,
    epoch: int = 0,
    rate: float = 0.0,
    networks: Mapping[str, tuple[float, float]] | None = None,
) -> list[Place]:
    """Where the numbers of an update are not finite. The gradients must still lie at the weights.

    Args:
        batch: with its credit and weights. epoch: of the update on this batch. rate: of learning.
        networks: loss and gradient norm of each network beside the policy, by name.
    """
    if not math.isfinite(rate):
        return [{"tensor": "learning rate", "value": word(rate), "count": 1}]
    # Rows are numbered through over all ranks, as they lie in the batch that is kept of them.
    first = sum(parallel.everywhere(len(batch))[: parallel.rank()])
    marked = batch.put(_row=first + torch.arange(len(batch), device=batch.ids.device))
    levels = [
        _in_streams(models, marked), [], [], _in_networks(networks or {}), _in_gradients(models)
    ]  # fmt: skip
    if method.epochs > 1:
        marked = marked.put(epoch=torch.full_like(batch.group, epoch))
    pieces = marked.split(micro_rows or len(batch), method.unit) if len(batch) else []
    with models.uncharged(), models.opened():
        for piece in pieces:
            scores = models.scores(method.views(piece, models), piece)
            for name, each in scores.items():
                levels[1] += _in_scores(models, piece, name, each)
            told = method.loss(scores, piece)
            levels[2] += _places(models, piece, "value of the loss", told, ~told.isfinite())
    ranks = parallel.everywhere(levels)
    for level in range(len(levels)):
        if found := [place for each in ranks for place in each[level]]:
            return found[:MOST]
    return []


def stopped(training: Training) -> str:
    """Why a run stops after so many updates that were not made."""
    assert training.fault is not None
    places = "; ".join(say(place) for place in training.fault["found"][:1])
    return (
        f"stopped at step {training.step}: {training.skips} updates in a row had a loss or "
        f"gradient that is not finite (loss {training.fault['loss']}, gradient norm "
        f"{training.fault['grad_norm']}; {places}). The weights are as they were before"
    )


def _in_streams(models: Models, batch: Batch) -> list[Place]:
    """Streams with such numbers. NaN for a row means that something of it is not known."""
    found = []
    for name, value in batch.streams.items():
        if not value.is_floating_point():
            continue
        unknown = value.dim() == 1 and not name.startswith("weight")
        bad = value.isinf() if unknown else ~value.isfinite()
        found += _places(models, batch, f"stream {name!r}", value, bad)
    return found


def _in_scores(models: Models, piece: Batch, name: str, scores: Scores) -> list[Place]:
    role = f"of the view {name!r}"
    states = ~scores.hidden.isfinite().all(1)
    if states.any():
        dense = torch.zeros_like(scores.asked).masked_scatter(scores.asked, states)
        whole = torch.where(dense, torch.nan, 0.0)
        return _places(models, piece, f"hidden state {role}", whole, dense)
    logp = scores.read("logp")["logp"]
    return _places(models, piece, f"log-probability {role}", logp, ~logp.isfinite())


def _in_networks(networks: Mapping[str, tuple[float, float]]) -> list[Place]:
    """Networks whose loss or gradient is not finite; all ranks know of them, and one says so."""
    return [
        {"tensor": f"{what} of the network {name!r}", "value": word(value), "count": 1}
        for name, (loss, norm) in networks.items()
        for what, value in (("loss", loss), ("gradient", norm))
        if not math.isfinite(value) and parallel.leads()
    ]


def _in_gradients(models: Models) -> list[Place]:
    """Weights whose gradient is not finite; else that whose gradient is largest."""
    found, largest = [], (0.0, "")
    for name, weight in models.policy.model.named_parameters():
        if weight.grad is None:
            continue
        gradient = weight.grad.to_local() if hasattr(weight.grad, "to_local") else weight.grad
        bad = ~gradient.isfinite()
        if bad.any():
            value = word(float(gradient[bad][0]))
            found.append({"tensor": f"gradient of {name}", "value": value, "count": int(bad.sum())})
        elif gradient.numel():
            largest = max(largest, (float(gradient.abs().max()), name))
    if found or not largest[1]:
        return found[:MOST]
    return [{"tensor": f"gradient of {largest[1]}, the largest", "value": largest[0], "count": 1}]


def _places(
    models: Models, batch: Batch, tensor: str, value: torch.Tensor, bad: torch.Tensor
) -> list[Place]:
    """One entry for a tensor [B], [B, T] or [B, T, K]: its first such number, and how many."""
    count = int(bad.sum())
    if not count:
        return []
    first = bad.nonzero()[0].tolist()
    row = first[0]
    rows = batch.streams.get("_row")
    place: Place = {
        "tensor": tensor, "value": word(float(value[tuple(first)])), "count": count,
        "row": row if rows is None else int(rows[row]), "question": batch.rows[row].place,
    }  # fmt: skip
    if len(first) > 1:
        token = int(batch.ids[row, first[1]])
        place |= {"column": first[1], "text": models.policy.tokenizer.decode([token])}
    return [place]


def say(place: Mapping[str, Any]) -> str:
    """A place as a line."""
    text = f"{place['tensor']}: {place['value']}"
    if "row" in place:
        text += f" in row {place['row']}, {place['question']}"
    if "column" in place:
        text += f", at token {place['text']!r} of column {place['column']}"
    return text + (f" ({place['count']} such numbers)" if place["count"] > 1 else "")


@contextmanager
def enough_memory(run: Run, doing: str, remedy: str) -> Iterator[None]:
    """Turn an allocation that failed into a clear stop.

    Raises:
        Halted: out of memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not exhausted(error):
            raise
        rows = run.micro_rows or run.rows
        said = str(error).splitlines()[0]
        reason = f"out of memory while {doing}, {rows} rows in a pass ({said}). {remedy}"
    else:
        return
    raise Halted(reason)  # out of the handler, so that nothing holds what was allocated
