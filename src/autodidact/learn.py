"""One update of a batch that was drawn: credit -> weigh -> views -> score -> loss -> gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import torch

from autodidact import parallel
from autodidact.batch import Batch
from autodidact.faults import located
from autodidact.head import whole
from autodidact.kinds import Kinds
from autodidact.measure import Tally, merged
from autodidact.method import Method
from autodidact.models import Models
from autodidact.run import Run


def learn(
    method: Method, models: Models, batch: Batch, optimizer: torch.optim.Optimizer, run: Run
) -> dict[str, Any]:
    """Update the policy on a batch, `method.epochs` times, and every auxiliary once.

    Returns what was measured, over all ranks. An empty batch makes no update. Nor does a loss or
    gradient that is not finite, of the policy or of an auxiliary: the rest of this batch is left
    out, and `fault` says where it is.
    """
    batch = credited(method, models, batch)
    if not any(parallel.everywhere(len(batch))):
        return {"loss": None, "grad_norm": None, "skipped": 0, "empty": 1}
    pieces = split(method, batch, run.micro_rows)
    networks = {each.name: models.trained(each) for each in method.auxiliaries}
    tally = Tally(Kinds.of(models.policy))
    fault: dict[str, Any] | None = None
    for epoch in range(method.epochs):
        optimizer.zero_grad(set_to_none=True)
        number = {} if method.epochs == 1 else {"epoch": epoch}
        losses = [
            backward(method, models, _numbered(piece, **number), None if epoch else tally)
            for piece in pieces
        ]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        _finish(models, parameters)
        loss = parallel.sum_numbers(sum(losses))
        reached = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(reached)
        size = float(whole(norm))
        beside = {}
        if epoch == 0:
            beside = networks_backward(method, models, pieces, run.grad_clip)
            told = {f"loss_{name}": value for name, (value, _) in beside.items()}
            tally.note(loss=loss, grad_norm=size, **told)
        rate = sum(group["lr"] for group in optimizer.param_groups)
        if all(map(math.isfinite, (loss, size, rate, *chain(*beside.values())))):
            # Not before: clipping to a norm that is not finite spoils every gradient.
            torch.nn.utils.clip_grads_with_norm_(parameters, run.grad_clip or math.inf, norm)
            optimizer.step()
            # A fused step leaves no trace, by which copies of the weights are known to be old.
            torch.autograd.graph.increment_version(parameters)
            models.ledger.optimizer_steps += 1
        else:
            found = located(method, models, batch, run.micro_rows, epoch, rate, beside)
            fault = {"epoch": epoch, "loss": loss, "grad_norm": size, "found": found, **told}
            break
    optimizer.zero_grad(set_to_none=True)
    for trained in networks.values():
        if fault is None:
            trained.step()
        trained.forget()
    means = merged(parallel.everywhere(replace(tally, kinds=None))).means()
    said = {} if fault is None else {"fault": fault}
    return {**means, "skipped": len(said), "empty": 0, **said}


def networks_backward(
    method: Method, models: Models, pieces: Sequence[Batch], clip: float
) -> dict[str, tuple[float, float]]:
    """Loss and gradient norm of each auxiliary, whose gradient then lies at its weights."""
    return {
        each.name: models.trained(each).backward(each, pieces, clip) for each in method.auxiliaries
    }


def _finish(models: Models, parameters: Sequence[torch.nn.Parameter]) -> None:
    """Sum the gradients over all ranks, as soon as each has made its own."""
    if models.sharded is not None:
        models.sharded.lockstep.finish()
    parallel.sum_gradients(parameters)


def _numbered(piece: Batch, **numbers: int) -> Batch:
    """A piece with numbers as streams [B]: `epoch`, of the update on this batch, from 0 on."""
    return piece.put(**{k: torch.full_like(piece.group, x) for k, x in numbers.items()})


def credited(method: Method, models: Models, batch: Batch) -> Batch:
    """The batch with its credit and with the weights of the loss and of every auxiliary's.

    The totals are over all ranks that have a row.
    """
    with parallel.present(len(batch) > 0), torch.no_grad():
        if len(batch):
            batch = method.credit(batch, models)
            batch = batch.put(weight=method.weigh(batch))
            for each in method.auxiliaries:
                batch = batch.put(**{f"weight_{each.name}": each.weigh(batch)})
        if models.sharded is not None:
            models.sharded.lockstep.finish()
    return batch


def split(method: Method, batch: Batch, micro_rows: int | None) -> list[Batch]:
    if not len(batch):
        return []
    return batch.split(micro_rows or len(batch), method.unit)


class Gradients(NamedTuple):
    """Of the trained weights of the policy that a loss reaches, and of its auxiliaries'."""

    policy: list[torch.Tensor]
    auxiliaries: list[torch.Tensor]


def gradients(
    method: Method, models: Models, batch: Batch, micro_rows: int | None = None
) -> Gradients:
    """The gradients that an update on this batch would use. Nothing is updated."""
    batch = credited(method, models, batch)
    pieces = split(method, batch, micro_rows)
    for piece in pieces:
        backward(method, models, piece, None)
    _finish(models, list(models.policy.model.parameters()))
    found = [
        gradient
        for each in method.auxiliaries
        for gradient in models.trained(each).gradient(each, pieces)
    ]
    return Gradients(_taken(models.policy.model), found)


def _taken(model: torch.nn.Module) -> list[torch.Tensor]:
    """The gradients that lie at the weights of a model; they lie there no more."""
    found = []
    for each in model.parameters():
        if each.grad is not None:
            found.append(whole(each.grad))
            each.grad = None
    return found


def backward(method: Method, models: Models, piece: Batch, tally: Tally | None) -> float:
    """Add the gradient of one piece of a batch. Returns its part of the loss."""
    views = method.views(piece, models)
    before = models.ledger.student_forward
    scores = models.scores(views, piece)
    fed = models.ledger.student_forward - before
    values = method.loss(scores, piece)
    assert values.shape == piece.take("weight").shape, "weights fit the loss values"
    loss = (values * piece.take("weight")).sum()
    if loss.requires_grad:  # not where only an auxiliary learns
        loss.backward() if models.sharded is None else models.sharded.lockstep.learn(loss)
    models.ledger.student_backward += fed
    for view in views.values():
        if view.grad:
            models.ledger.trained += int(view.asked.sum())
    if tally is not None:
        with torch.no_grad():
            tally.piece(piece, scores, method.signal(scores, piece, values))
    return float(loss.detach())
