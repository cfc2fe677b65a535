"""What training holds, as tensors for safetensors and the rest for JSON, and back again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autodidact.ledger import Ledger
from autodidact.skeleton import fill, spread_like

if TYPE_CHECKING:
    import torch

    from autodidact.ahead import Made
    from autodidact.batch import Batch
    from autodidact.problem import Problem, Task
    from autodidact.train import Training

FIELDS = ("ids", "real", "own", "group")
STREAM = "stream."


def tensors_of(batch: Batch) -> dict[str, torch.Tensor]:
    """Everything of a batch that is a tensor; streams under `stream.` and their name."""
    fields = {name: getattr(batch, name) for name in FIELDS}
    streams = {f"{STREAM}{name}": value for name, value in batch.streams.items()}
    return {name: value.contiguous().clone() for name, value in (fields | streams).items()}


def batch_of_tensors(
    tensors: Mapping[str, torch.Tensor], rows: Sequence[Problem], task: Task, temperature: float
) -> Batch:
    """The batch that `tensors_of` took apart."""
    from autodidact.batch import Batch

    streams = {
        name.removeprefix(STREAM): value
        for name, value in tensors.items()
        if name.startswith(STREAM)
    }
    fields = {name: tensors[name] for name in FIELDS}
    return Batch(**fields, rows=tuple(rows), task=task, temperature=temperature, streams=streams)


def described(made: Made) -> dict[str, Any]:
    """The rest: rows as places among the problems of the step, and what the batch cost."""
    place = {id(problem): number for number, problem in enumerate(made.problems)}
    return {
        "rows": [place[id(problem)] for problem in made.batch.rows],
        "temperature": made.batch.temperature,
        "spent": made.spent.counts(),
    }


def made_of(
    training: Training, step: int, tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Any]
) -> Made:
    """The batch of a step that `tensors_of` and `described` took apart."""
    from autodidact.ahead import Made

    problems, _ = training.asked(step)
    rows = [problems[place] for place in rest["rows"]]
    batch = batch_of_tensors(tensors, rows, training.task, rest["temperature"])
    return Made(problems, batch, Ledger.of(rest["spent"]))


def flatten(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """The state of an optimizer: its tensors as `number.name`, and its groups."""
    tensors = {
        f"{index}.{name}": value.contiguous()
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, state["param_groups"]


def fit_into(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, torch.Tensor],
    groups: list[dict[str, Any]],
) -> None:
    """Give an optimizer the state that `flatten` took apart."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = spread_like(value, weights[int(index)])
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def copy_into(into: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    """Put weights into parameters of the same names.

    Raises:
        ValueError: the names differ.
    """
    if into.keys() != weights.keys():
        raise ValueError("the averaged weights in the checkpoint are those of another model")
    for name, value in weights.items():
        fill(into[name], value)
