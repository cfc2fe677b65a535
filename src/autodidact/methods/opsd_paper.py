from __future__ import annotations

from autodidact.losses.importance import Correct
from autodidact.method import Method, factory
from autodidact.methods.opsd import opsd


@factory
def opsd_paper(
    length: int = 1024, clip: float = 0.05, correct: Correct | None = None, cap: float = 2.0
) -> Method:
    """OPSD with the settings of its conference version.

    L = (1/N) sum_t sum_v min(q_v log(q_v/p_v), clip): forward KL with the pointwise clip 0.05,
    one answer of 1024 tokens, temperature 1.1, top-k 20, top-p 0.95, the initial weights as
    teacher, who thinks while the student does not.

    Source: Self-Distilled Reasoner, arXiv 2601.18734. Its training used LoRA of rank 64 and
    alpha 128, learning rate 5e-6, gradient norm 0.1, 32 rows a step, 100 steps.
    Needs: `solution`. Detached: the teacher, and the sampling. Shapes, raises: as `opsd`.
    Degenerates to: `opsd` with forward KL for a large clip.

    Args:
        correct, cap: as in `opsd`; not of the paper.
    """
    return opsd(
        1, length, "forward", clip=clip, teacher="initial", teacher_thinking=True,
        temperature=1.1, top_k=20, top_p=0.95, correct=correct, cap=cap,
    )  # fmt: skip
