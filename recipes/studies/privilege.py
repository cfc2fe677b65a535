"""What must the teacher be told: the solution, the answer, a sibling's success, anything at all?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.studies.study import main, study

CONTEXTS = ("solution", "answer", "sibling", "other", "wrong", "none")
ROWS = 4
"""Completions of a problem in every arm, as "sibling" needs others to look at."""


def privilege(out: Path | str | None = None, **options: Any) -> Path:
    """OPSD, reverse divergence, with each kind of privileged information.

    "other" is another problem with its solution, said to be another; where the data has no column
    `demonstration`, that context tells the same, so it is no arm of its own.

    Args:
        out: the run directory; a fresh one under runs/ by default.
        options: of `autodidact.compare`; with `data`, the setting is `study.REAL`.
    """
    arms = [f"opsd(divergence=reverse, context='{kind}')" for kind in CONTEXTS]
    return study(arms, out, {"n": ROWS, **options})


if __name__ == "__main__":
    main(privilege)
