"""Forward, reverse, or between: which divergence to the teacher, at equal gradient norm?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.studies.study import main, study

NORM = 0.05
"""The norm that every gradient is cut to: below what any arm was seen to have, so that arms and
steps differ by direction alone."""

ARMS = (
    "opsd(divergence=forward)",
    "opsd(divergence=reverse)",
    "opsd(divergence=jsd, beta=0.5, rescale=True)",
    "opsd(divergence=tv)",
)


def divergence(out: Path | str | None = None, **options: Any) -> Path:
    """Forward, reverse, rescaled JSD and total variation to the same teacher, full vocabulary.

    Args:
        out: the run directory; a fresh one under runs/ by default.
        options: of `autodidact.compare`; with `data`, the setting is `study.REAL`.
    """
    return study(ARMS, out, {"grad_clip": NORM, **options})


if __name__ == "__main__":
    main(divergence)
