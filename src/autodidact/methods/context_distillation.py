from __future__ import annotations

from autodidact.contexts import ContextKind
from autodidact.divergence import Kind, Words
from autodidact.losses.importance import Correct
from autodidact.method import Method, factory
from autodidact.methods.opsd import opsd


@factory
def context_distillation(
    n: int = 1,
    length: int = 1024,
    divergence: Kind = "reverse",
    beta: float = 0.5,
    teacher: str = "initial",
    support: Words = "full",
    k: int = 100,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
    context: ContextKind = "system",
    text: str | None = None,
) -> Method:
    """On-policy context distillation: what a system message does, moved into the weights.

    y ~ p(.|x);  L = (1/N) sum_t KL(p_t || q_t), q_t = q(.|c, x, y_<t), c a text that is the same
    for all problems (a persona, a style, a reminder, lessons learnt), which the student never sees.

    Source: On-Policy Context Distillation, arXiv 2602.12275.
    Needs: `text`, and of the problems the question alone. Detached: the teacher, the sampling.
    Shapes: one value per own token, in nats.
    Raises: ValueError without a text, and as `opsd`.
    Degenerates to: `opsd` with context system; zero for context none while the weights are equal.

    Args:
        divergence: reverse as in the paper; forward also covers what c makes merely possible.
        beta: of the JSD only.
        teacher: initial, a larger checkpoint with the same vocabulary, or whatever `opsd` takes.
        support, k: over which words; see `opsd`.
        correct: weigh tokens that another engine or older weights drew: token, sequence or mask.
        cap: of those weights.
        context: other things to be told, such as other, which also moves into the weights.
        text: what the teacher's system message says.
    """
    return opsd(
        n, length, divergence, beta, teacher=teacher, support=support, k=k,
        temperature=temperature, top_k=top_k, top_p=top_p, correct=correct, cap=cap,
        context=context, text=text,
    )  # fmt: skip
