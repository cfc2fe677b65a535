"""Who should teach: the initial weights, an average, the live ones, or something between?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.studies.study import main, study

KINDS = ("initial", "ema:0.9", "ema:0.99", "policy", "trust:0.1", "copy:20")


def teachers(out: Path | str | None = None, **options: Any) -> Path:
    """OPSD with each kind of self-teacher, all told the solution.

    A live teacher may drift along with its student; where it does, the total variation between
    them falls while accuracy does not rise. Give a larger `budget` to see it.

    Args:
        out: the run directory; a fresh one under runs/ by default.
        options: of `autodidact.compare`; with `data`, the setting is `study.REAL`.
    """
    return study([f"opsd(teacher='{kind}')" for kind in KINDS], out, options)


if __name__ == "__main__":
    main(teachers)
