"""Checkpoints: a model folder in Hugging Face format, with what training needs beside it.

    step-000100/
        config.json, model.safetensors, tokenizer ...   loadable by `from_pretrained` (or peft)
        training/optimizer.safetensors, state.json,
                 ema-*.safetensors, ahead-*.safetensors, auxiliary-*.safetensors
        manifest.json                                    written last: size and SHA-256 of each file

A checkpoint is written under a temporary name and renamed when it is complete. Tensors are
safetensors, the rest JSON; nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autodidact.ledger import Ledger

if TYPE_CHECKING:
    import torch

    from autodidact.ahead import Made
    from autodidact.batch import Batch
    from autodidact.train import Training

FIELDS = ("ids", "real", "own", "group")
STREAM = "stream."
KEPT = 2
"""Checkpoints of regular saving that stay; older ones are deleted when a new one is complete."""


def save(training: Training, folder: Path, name: str | None = None) -> Path:
    """Write a checkpoint of a training into `folder`, whole or not at all.

    Batches that are being drawn ahead are part of it: they are waited for.
    """
    from safetensors.torch import save_file

    target = folder / (name or f"step-{training.step:06d}")
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "training").mkdir(parents=True)
    policy = training.models.policy
    policy.model.save_pretrained(temporary, max_shard_size="1000GB")
    policy.tokenizer.save_pretrained(temporary)
    tensors, groups = _flatten(training.optimizer.state_dict())
    save_file(tensors, temporary / "training" / "optimizer.safetensors")
    averages = training.models.lasting()
    for number, (_, lm) in enumerate(averages.items()):
        weights = {key: value.contiguous() for key, value in lm.model.named_parameters()}
        save_file(weights, temporary / "training" / f"ema-{number}.safetensors")
    beside = _save_auxiliaries(training, temporary / "training")
    ahead = [] if training.ahead is None else training.ahead.made()
    for number, made in enumerate(ahead):
        save_file(_tensors(made.batch), temporary / "training" / f"ahead-{number}.safetensors")
    state = {
        "step": training.step,
        "position": training.position,
        "skips": training.skips,
        "ledger": training.models.ledger.counts(),
        "averages": list(averages),
        "auxiliaries": beside,
        "ahead": [_described(made) for made in ahead],
        "rollout": training.method.rollout.state(),
        "optimizer": groups,
    }
    (temporary / "training" / "state.json").write_text(json.dumps(state, indent=1))
    manifest = {
        str(path.relative_to(temporary)): {"bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(temporary.rglob("*"))
        if path.is_file()
    }
    (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for path in temporary.rglob("*"):
        if path.is_file():
            _sync(path)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    _sync(folder)
    return target


def prune(folder: Path, keep: int = KEPT) -> None:
    """Delete all but the newest complete checkpoints of regular saving."""
    for path in complete(folder)[:-keep]:
        shutil.rmtree(path)


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints of regular saving in a folder, oldest first."""
    return sorted(path.parent for path in folder.glob("step-*/manifest.json"))


def verify(checkpoint: Path) -> None:
    """Raise `ValueError`, naming the file, unless every file is as it was written."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_bytes())
    except ValueError as error:
        raise ValueError(f"checkpoint {checkpoint}: manifest.json is damaged ({error})") from error
    for name, known in manifest.items():
        path = checkpoint / name
        if not path.is_file():
            raise ValueError(f"checkpoint {checkpoint} lacks {name}")
        if path.stat().st_size != known["bytes"] or _digest(path) != known["sha256"]:
            raise ValueError(f"checkpoint {checkpoint}: {name} is not as it was written")


def restore(training: Training, checkpoint: Path) -> None:
    """Put a training into the state that a checkpoint holds.

    Raises:
        ValueError: a file is missing or damaged, or was written by another configuration.
    """
    from safetensors.torch import load_file

    verify(checkpoint)
    restore_weights(training.models.policy.model, checkpoint)
    state = json.loads((checkpoint / "training" / "state.json").read_text())
    for number, role in enumerate(state["averages"]):
        weights = load_file(checkpoint / "training" / f"ema-{number}.safetensors")
        _copy(dict(training.models[role].model.named_parameters()), weights)
    _restore_auxiliaries(training, checkpoint / "training", state["auxiliaries"])
    tensors = load_file(checkpoint / "training" / "optimizer.safetensors")
    training.optimizer.load_state_dict(_unflatten(tensors, state["optimizer"]))
    training.step, training.position = state["step"], state["position"]
    training.skips = state["skips"]
    training.models.ledger = Ledger.of(state["ledger"])
    training.models.version = None
    if state["rollout"] is not None:
        training.method.rollout.restore(state["rollout"])
    _restore_ahead(training, checkpoint, state["ahead"])


def _save_auxiliaries(training: Training, folder: Path) -> dict[str, Any]:
    """Write the networks that have been in use, and return what of them is JSON, by name."""
    from safetensors.torch import save_file

    found = {}
    for name, each in training.models.auxiliaries.items():
        tensors, groups = _flatten(each.optimizer.state_dict())
        weights = {key: value.contiguous() for key, value in each.network.state_dict().items()}
        save_file(weights, folder / f"auxiliary-{name}.safetensors")
        save_file(tensors, folder / f"auxiliary-{name}-optimizer.safetensors")
        found[name] = {"updates": each.updates, "optimizer": groups}
    return found


def _restore_auxiliaries(training: Training, folder: Path, state: dict[str, Any]) -> None:
    from safetensors.torch import load_file

    for auxiliary in training.method.auxiliaries:
        if auxiliary.name not in state:
            continue
        known, each = state[auxiliary.name], training.models.trained(auxiliary)
        each.network.load_state_dict(load_file(folder / f"auxiliary-{auxiliary.name}.safetensors"))
        tensors = load_file(folder / f"auxiliary-{auxiliary.name}-optimizer.safetensors")
        each.optimizer.load_state_dict(_unflatten(tensors, known["optimizer"]))
        each.updates = known["updates"]


def _restore_ahead(training: Training, checkpoint: Path, ahead: list[dict[str, Any]]) -> None:
    from safetensors.torch import load_file

    if len(ahead) > training.run.staleness:
        raise ValueError(
            f"checkpoint {checkpoint} holds {len(ahead)} batches that were drawn ahead, more than "
            f"staleness={training.run.staleness} allows"
        )
    if training.ahead is not None:
        made = []
        for number, described in enumerate(ahead):
            tensors = load_file(checkpoint / "training" / f"ahead-{number}.safetensors")
            made.append(_made(training, training.step + number, tensors, described))
        training.ahead.put_back(made)


def restore_weights(model: Any, checkpoint: Path) -> None:
    """Load the weights of a model, or those of its adapter, and nothing else."""
    from safetensors.torch import load_file, load_model

    if hasattr(model, "peft_config"):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, load_file(checkpoint / "adapter_model.safetensors"))
    else:
        load_model(model, checkpoint / "model.safetensors")


def _tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """Everything of a batch that is a tensor; streams under `stream.` and their name."""
    fields = {name: getattr(batch, name) for name in FIELDS}
    streams = {f"{STREAM}{name}": value for name, value in batch.streams.items()}
    return {name: value.contiguous().clone() for name, value in (fields | streams).items()}


def _described(made: Made) -> dict[str, Any]:
    """The rest: rows as places among the problems of the step, and what the batch cost."""
    place = {id(problem): number for number, problem in enumerate(made.problems)}
    return {
        "rows": [place[id(problem)] for problem in made.batch.rows],
        "temperature": made.batch.temperature,
        "spent": made.spent.counts(),
    }


def _made(
    training: Training, step: int, tensors: dict[str, torch.Tensor], described: dict[str, Any]
) -> Made:
    from autodidact.ahead import Made
    from autodidact.batch import Batch

    problems, _ = training.asked(step)
    streams = {
        name.removeprefix(STREAM): value
        for name, value in tensors.items()
        if name.startswith(STREAM)
    }
    batch = Batch(
        **{name: tensors[name] for name in FIELDS},
        rows=tuple(problems[place] for place in described["rows"]),
        task=training.task,
        temperature=described["temperature"],
        streams=streams,
    )
    return Made(problems, batch, Ledger.of(described["spent"]))


def _flatten(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    tensors = {
        f"{index}.{name}": value.contiguous()
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, state["param_groups"]


def _unflatten(tensors: dict[str, torch.Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": groups}


def _copy(into: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> None:
    if into.keys() != weights.keys():
        raise ValueError("the averaged weights in the checkpoint are those of another model")
    for name, value in weights.items():
        into[name].data.copy_(value)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
