"""The manifest of a folder: size and SHA-256 of each file, and of the list itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from autodidact.files import digest, remove

MANIFEST = "manifest.json"
DAMAGED = "damaged-"
"""Before the name of a checkpoint that was set aside when a run went on from an earlier one."""


def write_manifest(folder: Path) -> None:
    """Written last: a folder with a manifest is complete."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    whole = {"files": files, "sha256": _digest_of(files)}
    (folder / MANIFEST).write_text(json.dumps(whole, indent=1), encoding="utf-8")


def verify(checkpoint: Path) -> None:
    """Raise `ValueError`, naming the file, unless every file is as it was written."""
    try:
        for name, known in _manifest(checkpoint).items():
            path = checkpoint / name
            if not path.is_file():
                raise ValueError(f"checkpoint {checkpoint} lacks {name}")
            if path.stat().st_size != known["bytes"] or digest(path) != known["sha256"]:
                raise ValueError(
                    f"checkpoint {checkpoint}: {name} is not as it was written (SHA-256 mismatch)"
                )
    except OSError as error:
        raise ValueError(f"checkpoint {checkpoint}: {error.filename}: {error.strerror}") from error


def damage(checkpoint: Path) -> str:
    """What `verify` says; empty if the checkpoint is intact."""
    try:
        verify(checkpoint)
    except ValueError as error:
        return str(error)
    return ""


def set_aside(checkpoint: Path) -> None:
    """Take a damaged checkpoint out of the way, without deleting what may be of use."""
    aside = checkpoint.with_name(DAMAGED + checkpoint.name)
    if aside.exists():
        remove(aside)
    checkpoint.rename(aside)


def _digest_of(files: Any) -> str:
    """SHA-256 of a manifest's own list, so that a line cannot be lost from it unseen."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _manifest(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / MANIFEST
    if not path.is_file():
        raise ValueError(f"checkpoint {checkpoint} lacks {MANIFEST}")
    try:
        whole = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"checkpoint {checkpoint}: {MANIFEST} is damaged ({error})") from error
    files = whole.get("files") if isinstance(whole, dict) else None
    if not isinstance(files, dict) or whole.get("sha256") != _digest_of(files):
        raise ValueError(
            f"checkpoint {checkpoint}: {MANIFEST} is not as it was written (SHA-256 mismatch)"
        )
    return files
