"""Is OPSD's gain a teacher signal, or would any pull on the student's law do?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.studies.study import main, study

from autodidact.method import Method
from autodidact.methods.opsd import opsd

ARMS = (
    "opsd",
    "opsd(divergence=reverse)",
    "opsd(divergence=reverse, support=sampled, estimator=policy_gradient)",
    "opsd(clip=0.05)",
    "opsd(clip=1e-3)",
    "opsd(clip=1e-6)",
    "opsd(clip=0.05, clip_kind=symmetric)",
    "opsd(clip=0.05, clip_kind=token)",
    "opsd(context='none')",
    "opsd(context=other)",
    "opsd(context=wrong)",
    "opsa",
)


def signal(out: Path | str | None = None, **options: Any) -> Path:
    """OPSD with and without clips, with other and wrong contexts, no teacher, and against it.

    The teacher is the initial model. `anti` climbs the forward divergence that `opsd` descends;
    `opsa` needs no teacher at all. A clip that behaves like `anti` or `opsa` and unlike `opsd` is
    no regulariser of a teacher's signal, but another signal.

    Args:
        out: the run directory; a fresh one under runs/ by default.
        options: of `autodidact.compare`; with `data`, the setting is `study.REAL`.
    """
    return study(ARMS, out, options, {"anti": anti})


def anti(length: int) -> Method:
    """Away from the teacher: L = - (1/N) sum_t KL(q_t || p_t). Anti-SD, 2605.11609, ungated."""
    towards = opsd(length=length)
    return replace(towards, loss=lambda scores, batch: -towards.loss(scores, batch), name="anti")


if __name__ == "__main__":
    main(signal)
