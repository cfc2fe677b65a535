from __future__ import annotations

from autodidact.contexts import ContextKind
from autodidact.divergence import Kind
from autodidact.losses.importance import Correct
from autodidact.method import Method, factory
from autodidact.methods.opsd import opsd


@factory
def op2sd(
    n: int = 1,
    length: int = 1024,
    divergence: Kind = "forward",
    clip: float | None = 0.05,
    teacher: str = "initial",
    teacher_thinking: bool | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
    context: ContextKind = "other",
    text: str | None = None,
) -> Method:
    """OP2SD: `opsd` whose teacher is shown another problem with its solution.

    L = (1/N) sum_t sum_v min(q_v log(q_v/p_v), clip), q_t = q(.|x', solution', x, y_<t), x' another
    problem of the training split, the same one for x every time.

    Source: OP2SD, On-Policy Self-Distillation from Other Problems, arXiv 2608.09228. The clip is
    0.05, 1e-6 and 1e-7 there for models of 1.7, 4 and 8 billion weights: with a clip this small the
    gradient points mostly away from the teacher, so compare with context none at the same clip.
    Needs: `solution`, and two problems to train on. Detached: the teacher, and the sampling.
    Shapes: one value per own token, in nats.
    Raises: ValueError where no other problem can be shown, and as `opsd`.
    Degenerates to: `opsd` with context other and the same clip.

    Args:
        divergence, teacher, teacher_thinking: as in `opsd`.
        clip: of the summands; None for none.
        correct: weigh tokens that another engine or older weights drew: token, sequence or mask.
        cap: of those weights.
        context: what the teacher is told, such as solution or wrong: `contexts.Context`.
        text: of context "system".
    """
    return opsd(
        n, length, divergence, clip=clip, teacher=teacher, teacher_thinking=teacher_thinking,
        temperature=temperature, top_k=top_k, top_p=top_p, correct=correct, cap=cap,
        context=context, text=text,
    )  # fmt: skip
