from __future__ import annotations

from autodidact.contexts import ContextKind
from autodidact.divergence import Kind, Words
from autodidact.losses.divergence import EstimatorKind
from autodidact.losses.importance import Correct
from autodidact.method import Method, factory
from autodidact.methods.opsd import opsd


@factory
def sdft(
    n: int = 1,
    length: int = 1024,
    divergence: Kind = "forward",
    beta: float = 0.5,
    teacher: str = "ema:0.98",
    support: Words = "full",
    k: int = 100,
    estimator: EstimatorKind = "direct",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
    context: ContextKind = "demonstration",
    text: str | None = None,
) -> Method:
    """Self-Distillation Fine-Tuning: learn a skill from demonstrations, on the student's own text.

    y ~ p(.|x);  L = (1/N) sum_t KL(q_t || p_t), q_t = q(.|x, c, y_<t), c a demonstration of how x
    may be answered, q a moving average of the student.

    Source: Self-Distillation Enables Continual Learning, arXiv 2601.19897. Its text writes the
    reverse KL; all of its results used the forward one over the whole vocabulary, as here.
    Needs: the column `demonstration`, or else `solution`. Detached: the teacher, the sampling.
    Shapes: one value per own token, in nats.
    Raises: ValueError on a problem with neither, and as `opsd`.
    Degenerates to: `opsd` with context demonstration; zero for a live teacher who is told nothing.

    Args:
        divergence: forward, or "reverse" as in the paper's text.
        beta: of the JSD only.
        teacher: ema with a decay from 0.95 to 0.99, or whatever `opsd` takes.
        support, k, estimator: over which words, and how it becomes a gradient; see `opsd`.
        correct: weigh tokens that another engine or older weights drew: token, sequence or mask.
        cap: of those weights.
        context: what the teacher is told, see `contexts.Context`.
        text: of context "system".
    """
    return opsd(
        n, length, divergence, beta, teacher=teacher, support=support, k=k, estimator=estimator,
        temperature=temperature, top_k=top_k, top_p=top_p, correct=correct, cap=cap,
        context=context, text=text,
    )  # fmt: skip
