"""Which tokens of an answer are worth teaching: all alike, the first ones, or later ones more?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.studies.study import main, study

TOKENS = ("uniform", "prefix:8", "position:1")


def length(out: Path | str | None = None, **options: Any) -> Path:
    """OPSD, reverse divergence: all tokens alike, a prefix, weights that grow along the answer.

    All arms draw the same number of tokens; those of a prefix learn from fewer.

    Args:
        out: the run directory; a fresh one under runs/ by default.
        options: of `autodidact.compare`; with `data`, the setting is `study.REAL`.
    """
    arms = [f"opsd(divergence=reverse, tokens='{tokens}')" for tokens in TOKENS]
    return study(arms, out, options)


if __name__ == "__main__":
    main(length)
