from __future__ import annotations

from typing import Literal, get_args

from autodidact.losses.importance import Correct
from autodidact.method import Method, factory
from autodidact.methods.opsd import opsd
from autodidact.names import choose

Version = Literal["conference", "preprint"]


@factory
def opsd_paper(
    length: int = 1024,
    clip: float = 0.05,
    version: Version = "conference",
    reason: int = 0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """OPSD with the settings of its paper.

    L = (1/N) sum_t sum_v min(q_v log(q_v/p_v), clip): forward KL with the pointwise clip 0.05,
    one answer of 1024 tokens, temperature 1.1, top-k 20, top-p 0.95, the initial weights as
    teacher, who thinks while the student does not. The preprint (versions 1 and 2) has the
    JSD with beta 0.5 and no clip instead.

    Source: Self-Distilled Reasoner, arXiv 2601.18734. Its training used LoRA of rank 64 and
    alpha 128, learning rate 5e-6, gradient norm 0.1, 32 rows a step, 100 steps.
    Needs: `solution`. Detached: the teacher, and the sampling. Shapes, raises: as `opsd`.
    Degenerates to: `opsd` with forward KL for a large clip.

    Args:
        version: "conference" or "preprint".
        reason: tokens that the teacher writes first; up to 4096 in the release, which has it off.
        correct, cap: as in `opsd`; not of the paper.
    """
    choose("version", version, get_args(Version))
    late = version == "conference"
    return opsd(
        1, length, "forward" if late else "jsd", clip=clip if late else None, teacher="initial",
        teacher_thinking=True, temperature=1.1, top_k=20, top_p=0.95, correct=correct, cap=cap,
        reason=reason,
    )  # fmt: skip
