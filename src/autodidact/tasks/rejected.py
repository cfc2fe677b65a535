"""Rows of user data that cannot be used: said in a warning, and written to a file if asked."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from autodidact.tasks.rows import Row


def report(bad: Sequence[tuple[Row, str]], place: str | Path | None) -> None:
    """Warn of rows and why they are bad, and write them to a new file.

    Raises:
        ValueError: the file is there and says something else, or cannot be written.
    """
    if place is not None:
        _write(bad, Path(place))
    row, reason = bad[0]
    written = f" (written to {place})" if place is not None else ""
    warnings.warn(
        f"{len(bad)} bad rows skipped{written}; the first: {row.at}: {reason}", stacklevel=4
    )


def _write(bad: Sequence[tuple[Row, str]], path: Path) -> None:
    """Write whole or not at all; the same rows again, as a resumed run has them, are left."""
    lines = (
        json.dumps({"at": row.at, "reason": reason, "row": row.values}, default=str) + "\n"
        for row, reason in bad
    )
    text, half = "".join(lines).encode("ascii"), None
    try:
        handle, half = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(half, path)  # which, unlike a rename, fails where something is
    except FileExistsError:
        if not path.is_file() or path.read_bytes() != text:
            raise ValueError(
                f"rejected={str(path)!r} exists and holds something else; allowed: a new file"
            ) from None
    except OSError as error:
        raise ValueError(f"rejected={str(path)!r} cannot be written: {error.strerror}") from error
    finally:
        if half is not None:
            os.unlink(half)
