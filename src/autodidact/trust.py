"""What a model folder or the hub may bring besides numbers: code, and pickles. Nothing by default.

Code of a model's author runs only with `trust_remote_code`, and from the hub only at a commit that
the user names; pickled weights are read only with `unsafe_load`. Both are said loudly.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autodidact import places
from autodidact.redact import printable, redacted_text

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
COMMIT = re.compile(r"[0-9a-f]{40}")
NotTensors = torch.serialization.pickle.UnpicklingError
"""What reading a pickle with weights_only=True raises for anything else in it."""


@dataclass(frozen=True)
class Source:
    """Where a model is, and how it may be read.

    Attributes:
        place: a folder, or owner/name of the hub.
        revision: a branch, tag or commit of the hub; its default branch where none is said.
        code, pickles: whether code and pickled weights may be used.
    """

    place: str
    revision: str | None
    code: bool
    pickles: bool

    @property
    def options(self) -> dict[str, Any]:
        """Of `from_pretrained`, for model and tokenizer."""
        # Code may lie in another repository, which knows no such commit: then it is not loaded.
        code = {"code_revision": self.revision} if self.code and self.revision else {}
        return {"revision": self.revision or "main", "trust_remote_code": self.code, **code}


def source(name: str, *, code: bool, pickles: bool) -> Source:
    """Where the model of that name is: a shipped name, a folder, or owner/name[@revision].

    Raises:
        ValueError: nothing there, see `places.locate`; code that nothing pins to a commit; weights
            in pickles only, which were not asked for.
    """
    if "://" in name:
        raise ValueError(
            f"the model {redacted_text(name)!r} is a URL; allowed: a folder, owner/name of the "
            f"hub, or {', '.join(places.SHIPPED)}"
        )
    repository, at, revision = name.rpartition("@")
    if not at or Path(name).expanduser().exists() or name.startswith((".", "/", "~")):
        repository, revision = name, ""
    found = Source(places.locate(repository), revision or None, code, pickles)
    folder = Path(found.place) if Path(found.place).is_dir() else None
    if code:
        _check_code(found, folder)
        loudly(f"trust_remote_code: code that comes with {name} runs on this machine, as you")
    if folder is not None and (pickled := _pickled(folder)) is not None:
        if not pickles:
            raise ValueError(
                f"{name!r} has weights in {pickled} only, a pickle, which can run code when it is "
                "read; convert it to safetensors, or ask for it by name: unsafe_load"
            )
        loudly(f"unsafe_load: {folder / pickled} is a pickle; it is read with weights_only=True")
    elif folder is None and pickles:
        loudly(f"unsafe_load: where {name} has no safetensors, pickles are read")
    return found


def reason(error: Exception) -> str:
    """Why a model could not be read, in a line."""
    if isinstance(error, NotTensors):
        return "its pickle holds more than tensors, which could run code"
    return str(error).strip().splitlines()[0]


def loudly(said: str) -> None:
    """A line on the standard error stream that nobody overlooks."""
    print(f"!!!!!!!! {printable(said)} !!!!!!!!", file=sys.stderr, flush=True)


def _check_code(found: Source, folder: Path | None) -> None:
    if folder is None:
        if found.revision is None or not COMMIT.fullmatch(found.revision):
            raise ValueError(
                f"trust_remote_code runs whatever {found.place} is on the hub when it is loaded: "
                f"pin the commit that you have read, {found.place}@ and its 40 hex digits"
            )
        return
    for file in ("config.json", "tokenizer_config.json"):
        path = folder / file
        said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        # owner/name--module.Class is code of the hub, and its newest.
        if "--" in json.dumps(said.get("auto_map")):
            raise ValueError(
                f"{path}: auto_map names code on the hub, which nothing pins to a commit; allowed "
                "with trust_remote_code: code that lies in the folder"
            )


def _pickled(folder: Path) -> str | None:
    """A file of pickled weights in a folder without safetensors."""
    names = sorted(path.name for path in folder.iterdir())
    if any(name.endswith(".safetensors") for name in names):
        return None
    return next((name for name in names if name.endswith(PICKLES)), None)
