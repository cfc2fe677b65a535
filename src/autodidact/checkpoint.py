"""Checkpoints: a model folder in Hugging Face format, with what training needs beside it.

    step-000100/
        config.json, model.safetensors, tokenizer ...   loadable by `from_pretrained` (or peft)
        training/optimizer.safetensors, state.json,
                 ema-*.safetensors, ahead-*.safetensors, auxiliary-*.safetensors
        manifest.json                                    written last: size and SHA-256 of each file

A checkpoint is written under a temporary name, and renamed when it is complete and on the disk. So
whatever has its own name is whole, or was damaged later, which the manifest shows. Tensors are
safetensors, the rest JSON; nothing is pickled.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autodidact import parallel
from autodidact.files import named, remove, sync, sync_all, temporary
from autodidact.manifest import MANIFEST, damage, set_aside, verify, write_manifest
from autodidact.sharding import gathered
from autodidact.skeleton import fill, is_share
from autodidact.state import make_roles, put_back, put_back_drawing, read_state, taken_apart

if TYPE_CHECKING:
    import torch

    from autodidact.model import LM
    from autodidact.train import Training

KEPT = 2
"""Checkpoints of regular saving that stay; older ones are deleted when a new one is complete."""


def save(
    training: Training,
    folder: Path,
    name: str | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint of a training into `folder`, whole or not at all.

    Batches that are being drawn ahead are part of it: they are waited for. One that stands there
    already, and is intact, is that of the same step, and is kept.

    Args:
        beside: JSON to keep with it, see `beside_of`.

    Raises:
        ValueError: a weight, or a number of an optimizer, is not finite. Nothing is written.
        OSError: a file could not be written. What was begun is removed.
    """
    target = folder / (name or f"step-{training.step:06d}")
    if parallel.first(lambda: _stands(target)):
        return target
    tensors, state = taken_apart(training)
    model = training.models.policy.model
    weights = gathered(model.state_dict(keep_vars=True))
    state["beside"] = dict(beside or {})
    parallel.first(lambda: _save(target, training.models.policy, weights, tensors, state))
    return target


def _stands(target: Path) -> bool:
    """Whether it is there already. A damaged one makes room."""
    if target.exists():
        if not damage(target):
            return True
        set_aside(target)
    return False


def _save(
    target: Path,
    policy: LM,
    weights: dict[str, torch.Tensor],
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state: Mapping[str, Any],
) -> None:
    _refuse_poison(target, {"the model": weights, **tensors})
    folder, new = target.parent, temporary(target)
    shutil.rmtree(new, ignore_errors=True)
    try:
        with named(new):
            (new / "training").mkdir(parents=True)
            policy.model.save_pretrained(new, state_dict=weights, max_shard_size="1000GB")
            policy.tokenizer.save_pretrained(new)
            _write(new / "training", tensors, state)
            write_manifest(new)
            sync_all(new)
            new.rename(target)
            sync(folder)
            sync(folder.parent)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        said = f"{error.strerror}; checkpoint {target.name} was not written, earlier ones stand"
        raise OSError(error.errno or errno.EIO, said, error.filename) from error


def prune(folder: Path, keep: int = KEPT) -> None:
    """Delete all but the newest complete checkpoints of regular saving."""
    for path in complete(folder)[:-keep]:
        remove(path)


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints of regular saving in a folder, oldest first."""
    return [path for path in _regular(folder) if (path / MANIFEST).is_file()]


def _regular(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def restore(training: Training, checkpoint: Path, drawing: bool = True) -> None:
    """Put a training into the state that a checkpoint holds.

    Args:
        drawing: also what its rollouts keep and have drawn ahead, which is each rank's own.

    Raises:
        ValueError: a file is missing or damaged, or was written by another configuration.
    """
    verify(checkpoint)
    _load(training, checkpoint, drawing)


def resume(
    training: Training,
    folder: Path,
    *,
    strict: bool = False,
    warn: Callable[[str], None],
    look: Callable[[Path | None], None] = lambda path: None,
) -> Path | None:
    """Restore the newest checkpoint that is intact. Returns it, or `None` where none was written.

    Damaged ones that are newer are named to `warn`, and set aside.

    Args:
        strict: refuse to go on from any but the newest.
        look: told which it is, or that there is none, before anything is restored.

    Raises:
        ValueError: all are damaged, or one is and `strict` is said.
    """
    found, wrong = parallel.first(lambda: _newest(folder, strict, warn))
    look(found)
    if found is None:
        return None
    _load(training, found)
    if parallel.leads():
        for path in wrong:
            set_aside(path)
    return found


def _load(training: Training, checkpoint: Path, drawing: bool = True) -> None:
    make_roles(training, checkpoint)
    restore_weights(training.models.policy.model, checkpoint)
    put_back(training, checkpoint)
    if drawing:
        put_back_drawing(training, checkpoint)


def _newest(
    folder: Path, strict: bool, warn: Callable[[str], None]
) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint that is intact, and the newer ones that are not."""
    found, wrong = _regular(folder), []
    while found and (said := damage(found[-1])):
        wrong.append(found.pop())
        if strict:
            raise ValueError(said)
        warn(f"{said}; it is not used")
    if not found and wrong:
        names = ", ".join(path.name for path in wrong)
        raise ValueError(f"{folder} holds no checkpoint that is intact; damaged: {names}")
    return (found[-1] if found else None), wrong


def beside_of(checkpoint: Path) -> dict[str, Any]:
    """What `save` was given to keep with a checkpoint."""
    return read_state(checkpoint)["beside"]


def restore_weights(model: Any, checkpoint: Path) -> None:
    """Load the weights of a model, or those of its adapter, and nothing else."""
    from safetensors.torch import load_file, load_model

    weights = dict(model.named_parameters())
    if any(map(is_share, weights.values())):
        _fill(model, checkpoint)
    elif hasattr(model, "peft_config"):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, load_file(checkpoint / "adapter_model.safetensors"))
    else:
        load_model(model, checkpoint / "model.safetensors")


def _fill(model: Any, checkpoint: Path) -> None:
    """The same where the weights are spread over processes."""
    from safetensors.torch import load_file

    adapter = hasattr(model, "peft_config")
    found = load_file(checkpoint / f"{'adapter_model' if adapter else 'model'}.safetensors")
    for name, weight in model.named_parameters():
        known = name.replace(".default.", ".") if adapter else name
        if weight.requires_grad or not adapter:
            fill(weight, found[known])


def _write(
    folder: Path, tensors: Mapping[str, Mapping[str, torch.Tensor]], state: Mapping[str, Any]
) -> None:
    from safetensors.torch import save_file

    for name, values in tensors.items():
        whole = {key: value.contiguous() for key, value in values.items()}
        save_file(whole, folder / f"{name}.safetensors")
    (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")


def _refuse_poison(target: Path, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """A streak of steps may end in weights that nobody wants; they must not replace good ones."""
    for name, key, count in _poison(tensors):
        raise ValueError(
            f"checkpoint {target} is refused: {count} numbers of {key} in {name} are not finite; "
            "earlier checkpoints stand"
        )


def _poison(
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
) -> Iterator[tuple[str, str, int]]:
    for name, values in tensors.items():
        if name.startswith("ahead-"):  # a reward that nobody could give is NaN
            continue
        for key, value in values.items():
            if value.is_floating_point() and (wrong := int((~value.isfinite()).sum())):
                yield name, key, wrong
