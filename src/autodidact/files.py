"""Files that survive: written whole or not at all, on the disk when it is said, known by digest."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"
"""Ends the name of what is being written, which begins with a dot."""


def temporary(target: Path) -> Path:
    """The name under which a file or folder is written, beside its own."""
    return target.with_name(f".{target.name}{TEMPORARY}")


def is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(TEMPORARY)


def tidy(folder: Path) -> None:
    """Delete what killed processes left half written or half deleted in a folder."""
    for path in folder.glob(f".*{TEMPORARY}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Whatever fails to be written here is an `OSError` with a file name and a reason.

    Python's own lacks the name once a file is open; safetensors and tokenizers raise errors of
    their own, and tokenizers a bare `Exception`, so that all are looked at.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, reason, str(error.filename or path)) from error
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def write(target: Path, text: str) -> None:
    """A file, whole or not at all, and on the disk when this returns."""
    beside = temporary(target)
    try:
        with named(target):
            with beside.open("wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
            sync(target.parent)
    except OSError:
        with suppressed():
            beside.unlink(missing_ok=True)
        raise


def append(path: Path, text: str) -> None:
    """Text at the end of a file, whole or not at all."""
    rest = text.encode()
    with named(path), path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(end)
            raise


def lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The lines of a JSONL file, as text and as value; none where there is no file.

    A last line without its end is what a killed writer left, and is dropped unless it is whole.

    Raises:
        ValueError: any other line is no JSON.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                text = line.decode()
                value = json.loads(text)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                raise ValueError(f"{path}:{number}: {error}") from error
            yield text.rstrip("\n"), value


def remove(folder: Path) -> None:
    """Delete a folder, so that at no moment half of it stands under its name. Of a link, the
    link."""
    if folder.is_symlink():
        folder.unlink()
        return
    gone = temporary(folder)
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have the disk hold the content of a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_all(folder: Path) -> None:
    """Have the disk hold a folder and everything in it."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


@contextmanager
def suppressed() -> Iterator[None]:
    """What is cleared away after an error may fail too; the first error is the one to tell."""
    try:
        yield
    except OSError:
        return
