"""The best checkpoint of a run, as the lines of its metrics tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autodidact import files
from autodidact.manifest import damage


def best_name(step: int) -> str:
    """The folder of a checkpoint that was the best so far when it was evaluated."""
    return f"best-{step:06d}"


def best_of(
    lines: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    strict: bool,
    warn: Callable[[str], None],
) -> tuple[float, str] | None:
    """The score and name of the best checkpoint that lines speak of and that is intact.

    Those of which no line speaks are deleted: their evaluation will be made again.

    Raises:
        ValueError: with `strict`, the best one is damaged.
    """
    bests: list[tuple[float, str]] = []
    for line in lines:
        score = line.get("validation")
        if score is not None and (not bests or score > bests[-1][0]):
            bests.append((score, best_name(line["step"])))
    for path in folder.glob("best-*"):
        if path.name not in [name for _, name in bests]:
            files.remove(path)
    while bests and (said := damage(folder / bests[-1][1])):
        if strict:
            raise ValueError(said)
        warn(f"{said}; it is not used")
        bests.pop()
    return bests[-1] if bests else None
