"""The state of a training but for the weights of the policy, as files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autodidact import parallel
from autodidact.ledger import Ledger
from autodidact.serial import copy_into, described, fit_into, flatten, made_of, tensors_of
from autodidact.sharding import gathered

if TYPE_CHECKING:
    import torch

    from autodidact.train import Training

FORMAT = 2
"""Of `state.json`; one that was written in another is not read."""


def taken_apart(training: Training) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Everything of a training but the policy: tensors by file, and what goes into state.json."""
    tensors, groups = flatten(training.optimizer.state_dict())
    files = {"optimizer": gathered(tensors)}
    averages = training.models.lasting()
    for number, lm in enumerate(averages.values()):
        files[f"ema-{number}"] = gathered(dict(lm.model.named_parameters()))
    networks = {}
    for name, each in training.models.auxiliaries.items():
        files[f"auxiliary-{name}"] = each.network.state_dict()
        files[f"auxiliary-{name}-optimizer"], own = flatten(each.optimizer.state_dict())
        networks[name] = {"updates": each.updates, "optimizer": own}
    ahead = [] if training.ahead is None else training.ahead.made()
    waiting = parallel.everywhere([(tensors_of(made.batch), described(made)) for made in ahead])
    for rank, batches in enumerate(waiting):
        files |= {f"ahead-{rank}-{place}": values for place, (values, _) in enumerate(batches)}
    state = {
        "format": FORMAT,
        "step": training.step,
        "position": training.position,
        "skips": training.skips,
        "empty": training.empty,
        "evaluated": training.evaluated,
        "ledger": training.models.ledger.counts(),
        "roles": list(training.models.roles()),
        "averages": list(averages),
        "auxiliaries": networks,
        "ahead": [[rest for _, rest in batches] for batches in waiting],
        "rollout": parallel.everywhere(training.method.rollout.state()),
        "optimizer": groups,
    }
    return files, state


def read_state(checkpoint: Path) -> dict[str, Any]:
    state = json.loads((checkpoint / "training" / "state.json").read_text(encoding="utf-8"))
    if state.get("format") != FORMAT:
        raise ValueError(
            f"checkpoint {checkpoint} was written by another version of autodidact (format "
            f"{state.get('format', 1)}); this one reads format {FORMAT}"
        )
    return state


def make_roles(training: Training, checkpoint: Path) -> None:
    """Make the roles that were in use, while the policy still has the weights it began with."""
    for role in read_state(checkpoint)["roles"]:
        assert training.models[role]


def put_back(training: Training, checkpoint: Path) -> None:
    """Put a training into the state that lies in a checkpoint. The policy is left as it is, and
    so is what was drawn.

    Raises:
        ValueError: it was written by another configuration or in another format.
    """
    from safetensors.torch import load_file

    state, folder = read_state(checkpoint), checkpoint / "training"
    for number, role in enumerate(state["averages"]):
        weights = load_file(folder / f"ema-{number}.safetensors")
        copy_into(dict(training.models[role].model.named_parameters()), weights)
    for auxiliary in training.method.auxiliaries:
        if auxiliary.name not in state["auxiliaries"]:
            continue
        known, each = state["auxiliaries"][auxiliary.name], training.models.trained(auxiliary)
        each.network.load_state_dict(load_file(folder / f"auxiliary-{auxiliary.name}.safetensors"))
        tensors = load_file(folder / f"auxiliary-{auxiliary.name}-optimizer.safetensors")
        fit_into(each.optimizer, tensors, known["optimizer"])
        each.updates = known["updates"]
    tensors = load_file(folder / "optimizer.safetensors")
    fit_into(training.optimizer, tensors, state["optimizer"])
    training.step, training.position = state["step"], state["position"]
    training.skips, training.empty = state["skips"], state["empty"]
    training.evaluated = state["evaluated"]
    training.models.ledger = Ledger.of(state["ledger"])
    training.models.version = None


def put_back_drawing(training: Training, checkpoint: Path) -> None:
    """Put back what rollouts keep, and what was drawn ahead: each rank's own.

    Raises:
        ValueError: it is that of another number of processes, or more than the run allows.
    """
    from safetensors.torch import load_file

    state = read_state(checkpoint)
    kept, here = state["rollout"], parallel.rank()
    if not any(kept) and not any(state["ahead"]):
        return
    if len(kept) != parallel.ranks():
        raise ValueError(
            f"checkpoint {checkpoint} holds what each of {len(kept)} processes has drawn, and now "
            f"there are {parallel.ranks()}: go on with as many"
        )
    if kept[here] is not None:
        training.method.rollout.restore(kept[here])
    ahead = state["ahead"][here]
    if len(ahead) > training.run.staleness:
        raise ValueError(
            f"checkpoint {checkpoint} holds {len(ahead)} batches that were drawn ahead, more than "
            f"staleness={training.run.staleness} allows"
        )
    if training.ahead is not None:
        made = []
        for number, rest in enumerate(ahead):
            tensors = load_file(checkpoint / "training" / f"ahead-{here}-{number}.safetensors")
            made.append(made_of(training, training.step + number, tensors, rest))
        training.ahead.put_back(made)
