"""A training of which every part says at which step it is, and what is done to files in between."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from autodidact import checkpoint, files
from autodidact.methods.opsd import opsd
from autodidact.models import Models
from autodidact.run import Run
from autodidact.train import Training
from toys import random_qwen, toy_task

TEACHER = "ema:0.5"


class Kill(BaseException):
    """Stands for SIGKILL: nothing of the library may catch it."""


class Fault:
    """Counts what is done to files, and lets the n-th fail: before it, or with it half done.

    Attributes:
        fails: raised at the n-th. seen: what was done.
    """

    def __init__(self, at: int | None = None, fails: Callable[[], BaseException] = Kill):
        self.at, self.fails, self.seen = at, fails, []

    def due(self, what: str) -> bool:
        self.seen.append(what)
        return len(self.seen) == self.at

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("mkdir", "rename", "replace", "fsync", "unlink", "remove", "rmdir"):
            patch.setattr(os, name, self._before(name, getattr(os, name)))
        opened = self._torn_open(builtins.open)
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)
        whole = safetensors.torch.serialize_file
        patch.setattr(safetensors.torch, "serialize_file", self._torn_tensors(whole))

    def _before(self, name, real):
        def call(*args, **kwargs):
            if self.due(name):
                raise self.fails()
            return real(*args, **kwargs)

        return call

    def _torn_open(self, real):
        def call(file, mode="r", *args, **kwargs):
            if set(mode) & set("wax+") and self.due("open"):
                with real(file, "wb") as torn:
                    torn.write(b'{"torn')
                raise self.fails()
            return real(file, mode, *args, **kwargs)

        return call

    def _torn_tensors(self, real):
        def call(tensors, filename, metadata=None):
            if self.due("tensors"):
                Path(filename).write_bytes(bytes(99))
                raise self.fails()
            return real(tensors, filename, metadata)

        return call


def training(tokenizer, step: int = 0) -> Training:
    """One whose weights, averages and counts are all the number of its step."""
    models = Models(random_qwen(tokenizer, dtype=torch.float32))
    found = Training(opsd(length=4, teacher=TEACHER), models, toy_task(8), Run(rows=4))
    marked(found, step)
    return found


def marked(found: Training, step: int) -> None:
    found.step = found.position = found.evaluated = step
    with torch.no_grad():
        for role in ("policy", TEACHER):
            for value in found.models[role].model.parameters():
                value.fill_(step)


def says(found: Training) -> int:
    """The step, about which all parts agree."""
    weights = [
        value.flatten()[0].item()
        for role in ("policy", TEACHER)
        for value in found.models[role].model.parameters()
    ]
    assert {found.step, found.position, found.evaluated, *weights} == {found.step}
    return found.step


def saved(found: Training, folder: Path, step: int) -> None:
    marked(found, step)
    checkpoint.save(found, folder)
    checkpoint.prune(folder)


def refuse(text: str) -> None:
    raise AssertionError(f"nothing is damaged: {text}")


def resumed(found: Training, folder: Path) -> int:
    """Resume as a run does; the step of which it goes on."""
    marked(found, 77)
    files.tidy(folder)
    assert checkpoint.resume(found, folder, warn=refuse) is not None
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in checkpoint.complete(folder)}, "nothing else is left"
    return says(found)
