"""OPSD on forking tokens only: do the gates of reinforcement learning suit a divergence?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.studies.study import main, study

TOKENS = ("uniform", "entropy:0.2", "lowest:0.2", "tempo:4", "thr:0.1", "thr:-0.1")


def forking(out: Path | str | None = None, **options: Any) -> Path:
    """OPSD, reverse divergence, on tokens chosen or weighed as policy-gradient methods do.

    Those of highest entropy (80/20), those the sampler thought least likely, those that decide
    between branches of a group (TEMPO), those whose gradient moves the right answers (THR). All
    arms draw four answers to a question, and the same number of tokens.

    Args:
        out: the run directory; a fresh one under runs/ by default.
        options: of `autodidact.compare`; with `data`, the setting is `study.REAL`.
    """
    arms = [f"opsd(divergence=reverse, n=4, tokens='{tokens}')" for tokens in TOKENS]
    return study(arms, out, options)


if __name__ == "__main__":
    main(forking)
