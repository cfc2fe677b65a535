"""Token-level post-training of language models: one model that teaches itself.

    from autodidact import compare, train

Names are imported when they are first used, so that `import autodidact` costs nothing.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autodidact.api import compare as compare
    from autodidact.api import replay as replay
    from autodidact.api import resume as resume
    from autodidact.api import train as train
    from autodidact.batch import Batch as Batch
    from autodidact.method import Method as Method
    from autodidact.method import factory as factory
    from autodidact.models import Models as Models
    from autodidact.problem import Problem as Problem
    from autodidact.problem import Task as Task
    from autodidact.view import View as View
    from autodidact.view import plain as plain
    from autodidact.view import reread as reread

# Libraries below report their use (huggingface_hub, vLLM), and transformers asks a service of the
# hub to convert models that lack safetensors: not unless the user says so.
for _name in ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_SAFETENSORS_CONVERSION"):
    os.environ.setdefault(_name, "1")

PUBLIC = {
    "train": "api",
    "resume": "api",
    "compare": "api",
    "replay": "api",
    "Batch": "batch",
    "Method": "method",
    "factory": "method",
    "Models": "models",
    "Problem": "problem",
    "Task": "problem",
    "View": "view",
    "plain": "view",
    "reread": "view",
}
"""Public name -> the module that defines it."""

__all__ = list(PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})


class _Package(ModuleType):
    """Python binds a submodule to its package when it is imported. The functions `train` and
    `compare` are not replaced by the modules of those names, whatever is imported first."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
