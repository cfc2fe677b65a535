"""`autodidact verify --task gsm8k FILE`: grade completions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def verify(
    file: Annotated[Path, Parameter(help="JSONL of question, completion, answer")],
    /,
    *,
    task: Annotated[
        str, Parameter(help="how answers are compared: gsm8k, math, numeric, exact ...")
    ] = "gsm8k",
    json: Annotated[
        Path | None, Parameter(help="write each row here, with `correct`, a line each")
    ] = None,
) -> None:
    """Grade a file of completions by their final answers, and print the accuracy."""
    from autodidact.tasks import verify as grading

    if json is not None and json.resolve() == file.resolve():
        raise ValueError(f"{json} is the file to be graded; allowed: another one")
    grades = grading.verify(file, task)
    if json is not None:
        grades.write(json)
    right, count = sum(grades.correct), len(grades.correct)
    print(f"accuracy {grades.accuracy:.4f} ({right} of {count} right)")
    if json is not None:
        print(f"rows: {json}")
