"""All words, the likeliest few, or the sampled one: what does a smaller support cost, or buy?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.studies.study import SMALL, main, study

MORE = 4
"""How many times the rows fit in memory, where an implementation keeps every word of the full
vocabulary for every token. This library does not: with it, equal memory is equal rows."""


def support(out: Path | str | None = None, **options: Any) -> Path:
    """Reverse divergence over the whole vocabulary, the student's top-k, and the sampled token.

    The smaller supports run at the rows of the full one, and at `MORE` times as many. As tokens
    are what is matched, more rows are fewer steps.

    Args:
        out: the run directory; a fresh one under runs/ by default.
        options: of `autodidact.compare`; with `data`, the setting is `study.REAL`.
    """
    more = f", rows={MORE * options.get('rows', SMALL['rows'])}"
    few = "opsd(divergence=reverse, support=student, k=16"
    one = "opsd(divergence=reverse, support=sampled, estimator=policy_gradient"
    smaller = [f"{begun}{rows})" for begun in (few, one) for rows in ("", more)]
    return study(["opsd(divergence=reverse)", *smaller], out, options)


if __name__ == "__main__":
    main(support)
