"""A step of a run once more: its batch, loss and gradient, and where they are not finite.

The batch is that which was kept when the step's numbers went wrong. Of any other step it is drawn
again, by a training that goes from the newest checkpoint before it, or from the start, to there.
Nothing is written.
"""

from __future__ import annotations

import json
import math
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from autodidact import calls, checkpoint, preflight
from autodidact.batch import Batch
from autodidact.faults import Place, located
from autodidact.head import whole
from autodidact.incidents import kept_batch, kept_fault, name_of
from autodidact.learn import backward, credited, networks_backward, split
from autodidact.models import Models
from autodidact.run import METRICS, Directory
from autodidact.spec import Spec, load_policy, make_engine, make_task
from autodidact.train import Training

CLOSE, ROUNDING = 1e-3, 1e-6
"""Relative difference, and absolute one of sums that cancel, that count as equal where sums depend
on their order: on a GPU, and where several processes made the step."""


@dataclass(frozen=True)
class Replay:
    """What a step was, and what it is now.

    Attributes:
        logged, again: `loss` and `grad_norm`, and `loss_<name>` of networks beside the policy.
        found: where numbers are not finite now, see `faults.located`.
        reproduced: whether both numbers are equal: those of one process on a CPU to the last bit.
    """

    step: int
    logged: dict[str, float | None]
    again: dict[str, float | None]
    found: list[Place]
    reproduced: bool


def replay(directory: Path, step: int | None = None) -> Replay:
    """Compute a step of a run again.

    Args:
        step: by default the first of those that were kept.

    Raises:
        ValueError: no such step, nothing kept, or a checkpoint that is damaged.
    """
    home = Directory(directory, resume=True)
    place = _kept(directory, step)
    call = _run(home)
    with closing(_training(Spec.of(call["spec"]))) as training:
        if place is not None:
            fault = kept_fault(place)
            state = place.parent / fault["state"] / "checkpoint"
            checkpoint.restore(training, state, drawing=False)
            batch = kept_batch(place, training).to(training.models.policy.device)
            step, epoch = fault["step"], fault["epoch"]
            logged = _told(training, fault)
        else:
            assert step is not None
            line = _logged(home, step)
            logged = _told(training, line)
            batch, epoch = _drawn(training, directory / "checkpoints", step), 0
        again, found = _computed(training, batch, epoch)
    alone = call["machine"]["processes"] == 1
    exact = alone and training.models.policy.device.type == "cpu"
    same = all(_equal(logged[name], again[name], exact) for name in again)
    return Replay(int(step), logged, again, found, same)


def _told(training: Training, line: dict[str, Any]) -> dict[str, float | None]:
    """The numbers of an update that are compared, of those that a line holds."""
    names = ("loss", "grad_norm", *(f"loss_{each.name}" for each in training.method.auxiliaries))
    return {name: line[name] for name in names if name in line}


def _run(home: Directory) -> dict[str, Any]:
    try:
        call = home.read("run.json")
    except json.JSONDecodeError as error:
        raise ValueError(f"{home.path / 'run.json'}:{error.lineno}: {error.msg}") from error
    if call["kind"] != "train":
        raise ValueError(f"{home.path} is a {call['kind']} run; allowed: a run of `train`")
    return call


def _kept(directory: Path, step: int | None) -> Path | None:
    """The folder of a step that was kept; `None` for a step that was not."""
    folder = directory / "faults"
    if step is not None:
        place = folder / name_of(step)
        return place if (place / "fault.json").is_file() else None
    kept = sorted(path.parent for path in folder.glob("step-*/fault.json"))
    if not kept:
        raise ValueError(f"{directory} has kept no step for replay; name one with --step N")
    return kept[0]


def _logged(home: Directory, step: int) -> dict[str, Any]:
    lines = [line for line in home.lines(METRICS) if line["kind"] == "step"]
    for line in lines:
        if line["step"] == step:
            return line
    raise ValueError(f"{home.path} has no step {step}; it has {len(lines)} steps, from 1 on")


def _training(spec: Spec) -> Training:
    """What `train` would start with."""
    method, task = calls.make(calls.method, spec.method), make_task(spec)
    models = Models(load_policy(spec), engine=make_engine(spec))
    preflight.check(method, models, task)
    preflight.check_engine(method, models, task)
    return Training(method, models, task, spec.run)


def _drawn(training: Training, folder: Path, step: int) -> Batch:
    """The batch of a step, with the training as it was before that step."""
    names = [name_of(number) for number in range(step)]
    before = [path for path in checkpoint.complete(folder) if path.name in names]
    if before:
        checkpoint.restore(training, before[-1])
    while training.step < step - 1:
        training.advance()
    return training.ready()


def _computed(
    training: Training, batch: Batch, epoch: int
) -> tuple[dict[str, float | None], list[Place]]:
    """Loss and gradient norm of the update on a batch, and what of it is not finite."""
    method, models, run = training.method, training.models, training.run
    batch = credited(method, models, batch)
    if not len(batch):
        return {"loss": None, "grad_norm": None}, []
    numbered = batch
    if method.epochs > 1:
        numbered = batch.put(epoch=torch.full_like(batch.group, epoch))
    training.optimizer.zero_grad(set_to_none=True)
    pieces = split(method, numbered, run.micro_rows)
    loss = sum(backward(method, models, piece, None) for piece in pieces)
    gradients = [p.grad for p in training.parameters() if p.grad is not None]
    norm = float(whole(torch.nn.utils.get_total_norm(gradients)))
    beside = {} if epoch else networks_backward(method, models, pieces, run.grad_clip)
    told = {f"loss_{name}": value for name, (value, _) in beside.items()}
    fine = all(map(math.isfinite, (loss, norm, *chain(*beside.values()))))
    found = [] if fine else located(method, models, batch, run.micro_rows, epoch, networks=beside)
    return {"loss": loss, "grad_norm": norm, **told}, found


def _equal(one: float | None, other: float | None, exact: bool) -> bool:
    if one is None or other is None:
        return one is other
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    close = math.isclose(one, other, rel_tol=CLOSE, abs_tol=ROUNDING)
    return one == other or (not exact and close)
